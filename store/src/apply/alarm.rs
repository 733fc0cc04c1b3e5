//! Alarms: conditions that restrict what is accepted, raised and cleared through the log.
//!
//! NOSPACE refuses what grows the store, CORRUPT refuses every change. A set of (member, alarm), kept in its own
//! bucket.

use std::collections::BTreeSet;

use prost::Message;
use proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, alarm_request::AlarmAction};

use crate::backend::{self, Batch, Bucket, Read};

#[derive(Clone, Debug, Default)]
pub struct Alarms(BTreeSet<(i32, u64)>);

impl Alarms {
    pub fn load(backend: &(impl Read + ?Sized)) -> backend::Result<Alarms> {
        let mut alarms = Alarms::default();
        backend.scan(Bucket::Alarm, &[], None, &mut |key, _| {
            if let Ok(alarm) = AlarmMember::decode(key) {
                alarms.0.insert((alarm.alarm, alarm.member_id));
            }
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(alarms)
    }

    pub fn is_raised(&self, alarm: AlarmType) -> bool {
        self.0.range((alarm as i32, 0)..=(alarm as i32, u64::MAX)).next().is_some()
    }

    pub fn list(&self, alarm: AlarmType) -> Vec<AlarmMember> {
        let wanted = self.0.iter().filter(|(raised, _)| alarm == AlarmType::None || *raised == alarm as i32);
        wanted.map(|(alarm, member_id)| AlarmMember { member_id: *member_id, alarm: *alarm }).collect()
    }

    /// Carries out a request and answers with the alarms it asks for or changed.
    pub fn apply(&mut self, request: &AlarmRequest, batch: &mut Batch) -> Vec<AlarmMember> {
        let alarm = AlarmMember { member_id: request.member_id, alarm: request.alarm };
        let entry = (request.alarm, request.member_id);
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.list(AlarmType::try_from(request.alarm).unwrap_or(AlarmType::None)),
            Ok(AlarmAction::Activate) if request.alarm != AlarmType::None as i32 => {
                if self.0.insert(entry) {
                    batch.put(Bucket::Alarm, &alarm.encode_to_vec(), &[]);
                }
                vec![alarm]
            }
            Ok(AlarmAction::Deactivate) if self.0.remove(&entry) => {
                batch.delete(Bucket::Alarm, &alarm.encode_to_vec());
                vec![alarm]
            }
            _ => Vec::new(),
        }
    }
}
