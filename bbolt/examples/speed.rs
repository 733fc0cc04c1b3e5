//! Writes and reads a database and says how fast: `cargo run --release -p bbolt --example speed -- [MIB] [VALUE
//! BYTES]`. The file lies in the directory for temporary files, and in the page cache if memory allows.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::time::Instant;

use bbolt::digest::{self, Sha256Writer};
use bbolt::{Database, PAGE_SIZE, Planner, Value, Writer};

#[expect(clippy::disallowed_methods, reason = "it measures")]
fn timed<T>(what: &str, bytes: u64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    let seconds = start.elapsed().as_secs_f64();
    println!("{what:<44} {seconds:6.2} s  {:7.0} MB/s", bytes as f64 / 1e6 / seconds);
    result
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>());
    let bytes = args.next().transpose()?.unwrap_or(1024) << 20;
    let value = vec![b'v'; args.next().transpose()?.unwrap_or(1024) as usize];
    let count = bytes / value.len() as u64;
    let key = |n: u64| {
        let mut key = *b"\0\0\0\0\0\0\0\0_\0\0\0\0\0\0\0\0";
        key[..8].copy_from_slice(&n.to_be_bytes());
        key
    };
    println!("{count} values of {} bytes", value.len());

    let plan = timed("plan", bytes, || {
        let mut planner = Planner::new(PAGE_SIZE)?;
        planner.bucket(b"key")?;
        for n in 0..count {
            planner.entry(&key(n), value.len())?;
        }
        planner.finish()
    })?;
    fn fill<W: Write>(
        mut writer: Writer<W>,
        count: u64,
        key: impl Fn(u64) -> [u8; 17],
        value: &[u8],
    ) -> Result<W, Box<dyn Error>> {
        writer.bucket(b"key")?;
        for n in 0..count {
            writer.entry(&key(n), value)?;
        }
        Ok(writer.finish()?)
    }
    timed("write to nowhere", bytes, || fill(Writer::planned(plan, io::sink())?, count, key, &value))?;
    timed("write to nowhere, with SHA-256", bytes, || {
        fill(Writer::planned(plan, Sha256Writer::new(io::sink()))?, count, key, &value)
    })?;
    let path = std::env::temp_dir().join(format!("bbolt-speed-{}.db", std::process::id()));
    let out = fs::File::create(&path)?;
    timed("write to a file, unsynced", bytes, || fill(Writer::seeking(PAGE_SIZE, out)?, count, key, &value))?;

    let database = Database::open(&path)?;
    println!("{} bytes of file, {} planned", fs::metadata(&path)?.len(), plan.size_bytes());
    timed("read all entries", bytes, || -> Result<(), Box<dyn Error>> {
        let bucket = database.bucket(b"key")?.ok_or("no bucket")?;
        let mut cursor = database.cursor(&bucket)?;
        let mut read = 0;
        while let Some(entry) = cursor.next_entry()? {
            if let Value::Bytes(value) = entry.value {
                read += value.len() as u64;
            }
        }
        assert_eq!(read, count * value.len() as u64);
        Ok(())
    })?;
    timed("check", bytes, || database.check())?;
    timed("CRC-32C of the contents", bytes, || digest::contents(&database, |_, _, _| {}))?;
    timed("SHA-256 of the file", bytes, || digest::sha256_tail(database.source()))?;
    fs::remove_file(&path)?;
    Ok(())
}
