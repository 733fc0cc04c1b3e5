//! Lines in the shape of etcd's logs, on standard error.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::go::json;

/// One line; `fields` follow the message.
pub fn line(level: &str, message: &str, fields: &[(&str, &str)]) -> io::Result<()> {
    let mut line = String::new();
    json::object(&mut line, |o| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        o.string("level", level);
        o.plain("ts", now.as_secs_f64());
        o.string("msg", message);
        for (name, value) in fields {
            o.string(name, value);
        }
    });
    writeln!(io::stderr(), "{line}")
}
