//! Probing: measures the round trip to a peer and the difference of the clocks, and nothing depends on it but
//! metrics and warnings. Source: etcd's `/raft/probing` (`xiang90/probing`).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::peer::client::{Channel, Error};
use crate::peer::transport::{Hex, Peer, Shared};

const INTERVAL: Duration = Duration::from_secs(4);
const MAX_CLOCK_DRIFT: Duration = Duration::from_secs(1);
/// Longest answer we read.
const ANSWER_LIMIT: usize = 1024;

/// Answer of `/raft/probing`.
#[derive(Serialize, Deserialize)]
struct Health {
    #[serde(rename = "OK")]
    ok: bool,
    /// RFC 3339 with nanoseconds.
    #[serde(rename = "Now")]
    now: String,
}

/// Our own answer to a probe.
pub(crate) fn health() -> Bytes {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let health = Health { ok: true, now: format_time(since_epoch) };
    let mut text = serde_json::to_vec(&health).expect("a bool and a string are JSON");
    text.push(b'\n');
    text.into()
}

/// Probes the peer for as long as the task runs.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut channel = Channel::new(shared.dialer.clone());
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut drifting = false;
    loop {
        ticks.tick().await;
        let url = peer.picker.pick();
        let headers = shared.identity.request_headers();
        let started = Instant::now();
        let call = channel.call(&url, Method::GET, "/raft/probing", headers, Bytes::new(), ANSWER_LIMIT);
        let answer = timeout(shared.config.read_timeout, call).await.unwrap_or(Err(Error::Timeout));
        let round_trip = started.elapsed();
        let health = match answer {
            Ok((StatusCode::OK, text)) => {
                serde_json::from_slice::<Health>(&text).ok().filter(|health| health.ok)
            }
            Ok(_) | Err(_) => None,
        };
        let Some(health) = health else {
            peer.picker.failed(&url);
            tracing::debug!(peer_id = %Hex(peer.id), %url, "peer did not answer a probe");
            continue;
        };
        peer.stats.round_trip.observe(round_trip);
        let Some(theirs) = parse_time(&health.now) else { continue };
        let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let drift = (theirs + round_trip / 2).abs_diff(ours);
        if drift > MAX_CLOCK_DRIFT && !drifting {
            tracing::warn!(peer_id = %Hex(peer.id), ?drift, ?round_trip, "clock differs from a peer's by more than a second");
        }
        drifting = drift > MAX_CLOCK_DRIFT;
    }
}

fn format_time(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil_from_days((seconds / 86400) as i64);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let nanoseconds = since_epoch.subsec_nanos();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

/// Time since the epoch of an RFC 3339 text in any zone; `None` for other text and for times before it.
fn parse_time(text: &str) -> Option<Duration> {
    let (date, time) = text.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let zone = time.find(['Z', '+', '-'])?;
    let (time, zone) = time.split_at(zone);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let offset = match zone.split_at(1) {
        ("Z", "") => 0,
        (sign, offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let offset = hours.parse::<u16>().ok()? as i64 * 3600 + minutes.parse::<u16>().ok()? as i64 * 60;
            if sign == "-" { -offset } else { offset }
        }
    };
    let in_range = (1970..10_000).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || !(0..24).contains(&hour) || !(0..60).contains(&minute) || !(0..=60).contains(&second) {
        return None;
    }
    let seconds = days_from_civil(year, month, day) * 86400 + hour * 3600 + minute * 60 + second - offset;
    let nanoseconds = match fraction.len() {
        0 => 0,
        digits @ 1..=9 => fraction.parse::<u32>().ok()? * 10u32.pow(9 - digits as u32),
        _ => return None,
    };
    Some(Duration::new(u64::try_from(seconds).ok()?, nanoseconds))
}

/// Days since 1970-01-01 of a date of the Gregorian calendar. Years start in March here, so that the leap day
/// is last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_go_are_understood() {
        let expected = Duration::new(1_709_210_096, 789_000_000);
        for text in [
            "2024-02-29T12:34:56.789Z",
            "2024-02-29T14:34:56.789+02:00",
            "2024-02-29T07:04:56.789000000-05:30",
        ] {
            assert_eq!(parse_time(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "T",
            "2024-02-29",
            "2024-02-29T12:34:56",
            "2024-13-01T00:00:00Z",
            "2024-01-01T00:00:00.1x2Z",
            "2024-01-01T00:00:00+9",
            "1969-12-31T00:00:00Z",
            "99999999999999999999-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn own_times_read_back_on_every_day() {
        for day in 0..80_000 {
            let time = Duration::new(day * 86400 + day % 86400, 5);
            assert_eq!(parse_time(&format_time(time)), Some(time), "day {day}");
        }
        assert_eq!(format_time(Duration::ZERO), "1970-01-01T00:00:00.000000000Z");
    }
}
