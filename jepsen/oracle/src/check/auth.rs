//! Whether everybody could do what they were allowed to, and nothing else.
//!
//! What goes through the log is judged at its place there: `follow` walks the entries and says what each must be
//! answered. What does not is judged by the entries that the asked member had applied between call and answer: one of
//! the states in between must explain it. A token may be used from its login on until an entry ends it.

use std::{collections::BTreeMap, sync::Arc};

use proto::etcdserverpb::{InternalRaftRequest, TxnResponse};

use super::Violation;
use crate::{
    history::OpId,
    model::rights::{Access, BAD_TOKEN, DENIALS, DENIED, NO_USER, NOBODY, OLD, Rights, Who, manages},
};

/// An entry of the log as it was applied.
#[derive(Clone, Debug)]
pub struct Entry {
    pub request: InternalRaftRequest,
    /// The text of a refusal, or a transaction's answer.
    pub result: Result<Option<TxnResponse>, String>,
    /// Of the client operation that it was proposed for.
    pub by: Option<By>,
    /// Whether the cluster's version was 3.6 or later.
    pub at_new_version: bool,
}

/// The client behind an entry or a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// The one that it shows in a history, if it does.
    pub op: Option<OpId>,
    /// The user that it is known as, with the entry that made its token; nobody without.
    pub user: Option<(String, u64)>,
}

/// A request that was decided by one member without an entry.
#[derive(Clone, Debug)]
pub struct Look {
    pub by: By,
    /// The newest entries that may and must have been seen: applied at the member when it answered; applied there when
    /// it was asked, or acknowledged to anybody before if it has to be the newest.
    pub from: u64,
    pub through: u64,
    pub asked: Asked,
    /// The text of a refusal.
    pub told: Result<(), String>,
}

/// What a request needs.
#[derive(Clone, Debug)]
pub enum Asked {
    /// All of this, as key and range end.
    Keys(Vec<(Access, Vec<u8>, Vec<u8>)>),
    /// To be a user at all.
    User,
    Root,
}

/// The states of the rules, each from the entry on that made it.
#[derive(Clone, Debug, Default)]
pub struct Followed(BTreeMap<u64, Arc<Rights>>);

impl Followed {
    /// Those of which a member that had applied between `from` and `through` can have shown one.
    fn between(&self, from: u64, through: u64) -> impl Iterator<Item = &Rights> {
        let first = self.0.range(..=from).next_back().map_or(0, |(index, _)| *index);
        self.0.range(first..=through.max(first)).map(|(_, rights)| &**rights)
    }

    pub fn last(&self) -> Option<&Rights> {
        self.0.values().next_back().map(|rights| &**rights)
    }
}

fn wrong(by: Option<&By>, what: String) -> Violation {
    Violation::new(what, by.and_then(|by| by.op))
}

/// Entries that may come between what a proposer saw and the place of its entry.
const IN_FLIGHT: u64 = 256;

impl Followed {
    fn was_off_lately(&self, index: u64) -> bool {
        let from = index.saturating_sub(IN_FLIGHT);
        let before = self.0.range(..from).next_back();
        before.into_iter().chain(self.0.range(from..index)).any(|(_, rights)| !rights.is_enabled())
    }
}

/// Walks the log, by index. `passwords`: which one each entry that sets one sets; `logins`: by which one somebody got
/// the token of an entry.
pub fn follow(
    log: &BTreeMap<u64, Entry>,
    passwords: &BTreeMap<u64, String>,
    logins: &BTreeMap<u64, String>,
) -> Result<Followed, Violation> {
    let mut rights = Rights::new();
    let mut known: BTreeMap<&str, &str> = BTreeMap::new();
    let mut followed = Followed::default();
    followed.0.insert(0, Arc::new(rights.clone()));
    for (&index, entry) in log {
        let header = entry.request.header.clone().unwrap_or_default();
        let who = Who { name: &header.username, revision: header.auth_revision };
        rights.root_at_once = entry.at_new_version;
        let must = rights.permits(who, &entry.request);
        let denied = entry.result.as_ref().err().filter(|text| DENIALS.contains(&text.as_str()));
        // Who manages may be told that a user is not there where that is no question of rights.
        let is_denied = denied.is_some_and(|text| *text != NO_USER || must.is_err());
        let described = || {
            let (name, revision) = (who.name, who.revision);
            format!("entry {index} of {name:?} as of auth revision {revision} (now {})", rights.revision())
        };
        match (must, denied) {
            (Ok(()), Some(text)) if is_denied => {
                return Err(wrong(
                    entry.by.as_ref(),
                    format!("{} is allowed, and was told {text:?}", described()),
                ));
            }
            (Err(text), told) if told.map(String::as_str) != Some(text) => {
                let told = entry.result.as_ref().map(|_| "carried out").unwrap_or_else(String::as_str);
                return Err(wrong(
                    entry.by.as_ref(),
                    format!("{} must be told {text:?}: {told}", described()),
                ));
            }
            _ => {}
        }
        if let Some(by) = &entry.by {
            named_right(&rights, index, who, entry, by, &followed)?;
        } else if denied.is_some_and(|text| {
            // As of an old revision even root is refused, in a cluster of an older version; and authentication may have
            // been off when the entry was proposed.
            text != OLD && !(text == NOBODY && followed.was_off_lately(index))
        }) {
            return Err(wrong(None, format!("{}: the cluster itself was refused", described())));
        }
        if let (Some(login), Some(password)) = (&entry.request.authenticate, logins.get(&index)) {
            let right = known.get(login.name.as_str()).copied();
            if right != Some(password) {
                let what =
                    format!("entry {index} logs {:?} in with {password:?}; right is {right:?}", login.name);
                return Err(wrong(entry.by.as_ref(), what));
            }
        }
        if entry.result.is_ok() {
            let answer = entry.result.as_ref().ok().and_then(Option::as_ref);
            rights.carry_out(index, &entry.request, answer);
            let set = entry.request.auth_user_add.as_ref().map(|it| &it.name);
            let set = set.or(entry.request.auth_user_change_password.as_ref().map(|it| &it.name));
            if let (Some(name), Some(password)) = (set, passwords.get(&index)) {
                known.insert(name, password);
            }
            if manages(&entry.request) {
                followed.0.insert(index, Arc::new(rights.clone()));
            }
        }
    }
    Ok(followed)
}

/// An entry bears the name of its client, and as of a revision at which the client's token counted.
fn named_right(
    rights: &Rights,
    index: u64,
    who: Who<'_>,
    entry: &Entry,
    by: &By,
    followed: &Followed,
) -> Result<(), Violation> {
    if who.name.is_empty() {
        return Ok(());
    }
    let Some((user, login)) = by.user.as_ref().filter(|(user, _)| user == who.name) else {
        let is = by.user.as_ref().map_or("nobody", |(user, _)| user);
        return Err(wrong(
            Some(by),
            format!("entry {index} is by {is:?}, and bears the name {:?}", who.name),
        ));
    };
    if who.revision > rights.revision() {
        let what = format!("entry {index} is as of auth revision {}, which is not there yet", who.revision);
        return Err(wrong(Some(by), what));
    }
    let counted = followed.0.values().filter(|it| it.revision() == who.revision);
    let mut counted = counted.map(|it| it.is_enabled() && !it.has_ended(user, *login));
    // While it goes without authentication, names count for nothing.
    if rights.is_enabled() && entry.result.is_ok() && !counted.any(|it| it) {
        let what = format!(
            "entry {index} is by a token of {user:?} from entry {login} that had ended by auth revision {}",
            who.revision
        );
        return Err(wrong(Some(by), what));
    }
    Ok(())
}

/// Whether one of the states that a member can have shown explains its answer.
pub fn explain(followed: &Followed, look: &Look) -> Result<(), Violation> {
    let states = || followed.between(look.from, look.through);
    let user = look.by.user.as_ref();
    let may = |rights: &Rights| match user {
        _ if !rights.is_enabled() => Ok(()),
        None => Err(NOBODY),
        Some((name, login)) if rights.has_ended(name, *login) => Err(BAD_TOKEN),
        Some((name, _)) => match &look.asked {
            Asked::Root if rights.is_root(name) => Ok(()),
            Asked::Root if !rights.is_user(name) => Err(NO_USER),
            Asked::User if rights.is_user(name) => Ok(()),
            Asked::Keys(keys)
                if keys.iter().all(|(access, key, end)| rights.may(name, *access, key, end)) =>
            {
                Ok(())
            }
            _ => Err(DENIED),
        },
    };
    let name = user.map_or("nobody", |(name, _)| name);
    let between = format!("between entries {} and {}", look.from, look.through);
    match &look.told {
        Ok(()) if states().any(|rights| may(rights).is_ok()) => Ok(()),
        Ok(()) => Err(wrong(Some(&look.by), format!("{name:?} was answered what it may not know {between}"))),
        Err(text) => {
            let explained = match text.as_str() {
                // A member forgets tokens when it starts, takes a snapshot over, or nobody uses them for long.
                BAD_TOKEN => states().any(Rights::is_enabled),
                // What was brought along does not count if it was not asked for at that moment.
                NOBODY => {
                    states().any(|rights| may(rights) == Err(NOBODY))
                        || states().any(Rights::is_enabled) && states().any(|rights| !rights.is_enabled())
                }
                OLD => states().map(Rights::revision).min() != states().map(Rights::revision).max(),
                text => states().any(|rights| may(rights).is_err_and(|denial| denial == text)),
            };
            match explained {
                true => Ok(()),
                false => Err(wrong(Some(&look.by), format!("{name:?} was told {text:?}, and may {between}"))),
            }
        }
    }
}
