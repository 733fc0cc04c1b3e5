//! Structured input: a target reads choices from the bytes it is given, and a seed writes them the same way.
//!
//! Every read succeeds: behind the end there are only zeros, and `is_empty` ends a target's loop. Reader and writer
//! are mirrors, so that valid inputs can be made by code; that is why this is not left to a derive macro.
//!
//! | item | bytes |
//! |---|---|
//! | byte | itself |
//! | number | 0–199: itself; 200–231: an edge value; 232–255: 8 bytes follow, little endian |
//! | bytes | a number of one byte (0–199) or two (200–255: the rest in the second, `(first - 200) * 256 + second`), then so many |

/// Numbers at which arithmetic and comparisons go wrong.
const EDGES: [u64; 32] = [
    u64::MAX,
    u64::MAX - 1,
    i64::MAX as u64,
    i64::MAX as u64 - 1,
    i64::MIN as u64,
    i64::MIN as u64 + 1,
    -1_i64 as u64,
    -2_i64 as u64,
    u32::MAX as u64,
    u32::MAX as u64 + 1,
    i32::MAX as u64,
    i32::MAX as u64 + 1,
    i32::MIN as i64 as u64,
    u16::MAX as u64,
    u16::MAX as u64 + 1,
    200,
    255,
    256,
    511,
    512,
    513,
    1000,
    1023,
    1024,
    4095,
    4096,
    1 << 20,
    (1 << 20) + 1,
    1 << 28,
    1 << 40,
    1 << 56,
    9_000_000_001,
];
const EDGE: u8 = 200;
const WIDE: u8 = 232;
const LONG: u8 = 200;

pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// One of `count` choices; `count` is at least 1.
    pub fn choice(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub fn number(&mut self) -> u64 {
        match self.byte() {
            WIDE.. => {
                let mut bytes = [0; 8];
                bytes.fill_with(|| self.byte());
                u64::from_le_bytes(bytes)
            }
            edge @ EDGE.. => EDGES[usize::from(edge - EDGE)],
            small => u64::from(small),
        }
    }

    pub fn signed(&mut self) -> i64 {
        self.number() as i64
    }

    pub fn bytes(&mut self) -> &'a [u8] {
        let len = match self.byte() {
            long @ LONG.. => usize::from(long - LONG) * 256 + usize::from(self.byte()),
            short => usize::from(short),
        };
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Writes what `Input` reads.
#[derive(Default, Clone)]
pub struct Script(Vec<u8>);

impl Script {
    pub fn byte(mut self, byte: u8) -> Script {
        self.0.push(byte);
        self
    }

    pub fn number(mut self, number: u64) -> Script {
        match u8::try_from(number) {
            Ok(small) if small < EDGE => self.0.push(small),
            _ => {
                self.0.push(WIDE);
                self.0.extend_from_slice(&number.to_le_bytes());
            }
        }
        self
    }

    /// At most 14,335 bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Script {
        match u8::try_from(bytes.len()) {
            Ok(short) if short < LONG => self.0.push(short),
            _ => {
                let high = u8::try_from(bytes.len() / 256).ok().filter(|high| *high <= u8::MAX - LONG);
                self.0.push(LONG + high.expect("a seed is short"));
                self.0.push((bytes.len() % 256) as u8);
            }
        }
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Script {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_writes_is_read() {
        let long = [7; 300];
        let bytes =
            Script::default().byte(3).number(5).number(200).number(u64::MAX).bytes(b"ab").bytes(&long).done();
        let mut input = Input::new(&bytes);
        assert_eq!((input.byte(), input.number(), input.number(), input.number()), (3, 5, 200, u64::MAX));
        assert_eq!((input.bytes(), input.bytes()), (&b"ab"[..], &long[..]));
        assert!(input.is_empty());
        assert_eq!((input.byte(), input.number(), input.bytes()), (0, 0, &b""[..]));
    }
}
