//! The bytes of one file: what programs see, and what a loss of power would leave.
//!
//! A file is a map of pages of 4096 bytes; a page that is missing or has no block reads as zeros. A page that was
//! written to since it was durable keeps the block it had then, and for each of its eight sectors of 512 bytes whether
//! it is
//!
//! | state | now | after a loss of power |
//! |---|---|---|
//! | clean | as before | as before |
//! | dirty | written since | drawn: as now or as before |
//! | dropped | written, and its sync failed | as before, also after later syncs |
//!
//! The size has two values likewise. Knows no names, no locks, no kernel. Used by `volume`.

use std::collections::BTreeMap;

use rand::{Rng, rngs::StdRng};

use super::Lost;

pub const PAGE: u64 = 4096;
const SECTOR: usize = 512;

type Block = Box<[u8; PAGE as usize]>;

#[derive(Debug, Default)]
struct Page {
    /// `None` = zeros.
    now: Option<Block>,
    /// Counts as used even if it is all zeros.
    reserved: bool,
    before: Option<Before>,
}

/// What is durable of a page that changed. A bit for each sector.
#[derive(Debug)]
struct Before {
    block: Option<Block>,
    dirty: u8,
    dropped: u8,
}

#[derive(Debug, Default)]
pub struct Content {
    pages: BTreeMap<u64, Page>,
    size: u64,
    durable_size: u64,
    /// Pages that have a `before`.
    unsynced: Vec<u64>,
    used: u64,
}

/// The sectors of a page that bytes `start..end` of it touch.
fn sectors(start: usize, end: usize) -> u8 {
    let (first, last) = (start / SECTOR, (end - 1) / SECTOR);
    (0xff << first) & (0xff >> (7 - last))
}

fn sector_of(block: &Option<Block>, sector: usize) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if let Some(block) = block {
        bytes.copy_from_slice(&block[sector * SECTOR..][..SECTOR]);
    }
    bytes
}

fn set_sector(block: &mut Option<Block>, sector: usize, bytes: &[u8; SECTOR]) {
    if block.is_none() && bytes.iter().all(|&byte| byte == 0) {
        return;
    }
    block.get_or_insert_with(zeros)[sector * SECTOR..][..SECTOR].copy_from_slice(bytes);
}

fn zeros() -> Block {
    Box::new([0; PAGE as usize])
}

impl Page {
    fn is_used(&self) -> bool {
        self.now.is_some() || self.reserved
    }
}

impl Content {
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of allocated pages.
    pub fn used(&self) -> u64 {
        self.used * PAGE
    }

    /// Bytes that would have to be allocated to write there.
    pub fn missing(&self, offset: u64, length: u64) -> u64 {
        let Some(last) = (offset + length).checked_sub(1) else { return 0 };
        let wanted = offset / PAGE..=last / PAGE;
        let count = wanted.end() - wanted.start() + 1;
        let there = self.pages.range(wanted).filter(|(_, page)| page.is_used()).count() as u64;
        (count - there) * PAGE
    }

    /// The bytes at `offset`, fewer at the end.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(length as u64));
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        if bytes.is_empty() {
            return bytes;
        }
        for (&number, page) in self.pages.range(offset / PAGE..=(end - 1) / PAGE) {
            let Some(block) = &page.now else { continue };
            let from = (number * PAGE).max(offset);
            let to = ((number + 1) * PAGE).min(end);
            bytes[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&block[(from % PAGE) as usize..][..(to - from) as usize]);
        }
        bytes
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % PAGE) as usize;
            let length = (PAGE as usize - within).min(bytes.len() - done);
            let page = self.dirty(at / PAGE, sectors(within, within + length));
            page.now.get_or_insert_with(zeros)[within..within + length]
                .copy_from_slice(&bytes[done..done + length]);
            done += length;
        }
        self.size = self.size.max(offset + bytes.len() as u64);
    }

    /// The page, with these sectors marked as written; the caller gives it a block, or takes it away.
    fn dirty(&mut self, number: u64, sectors: u8) -> &mut Page {
        let page = self.pages.entry(number).or_default();
        if !page.is_used() {
            self.used += 1;
            page.reserved = true;
        }
        match &mut page.before {
            Some(before) => {
                before.dirty |= sectors;
                before.dropped &= !sectors;
            }
            None => {
                page.before = Some(Before { block: page.now.clone(), dirty: sectors, dropped: 0 });
                self.unsynced.push(number);
            }
        }
        page
    }

    /// Zeros in `offset..end`; whole pages are freed.
    pub fn punch(&mut self, offset: u64, end: u64) {
        if offset >= end {
            return;
        }
        let numbers: Vec<u64> =
            self.pages.range(offset / PAGE..=(end - 1) / PAGE).map(|(&number, _)| number).collect();
        for number in numbers {
            let from = (offset.max(number * PAGE) - number * PAGE) as usize;
            let to = (end.min((number + 1) * PAGE) - number * PAGE) as usize;
            let page = self.dirty(number, sectors(from, to));
            if to - from == PAGE as usize {
                page.now = None;
                page.reserved = false;
                self.used -= 1;
            } else if let Some(block) = &mut page.now {
                block[from..to].fill(0);
            }
        }
    }

    /// Allocates `offset..offset + length` without writing; the size grows if `grow`.
    pub fn reserve(&mut self, offset: u64, length: u64, grow: bool) {
        if length == 0 {
            return;
        }
        for number in offset / PAGE..=(offset + length - 1) / PAGE {
            let page = self.pages.entry(number).or_default();
            if !page.is_used() {
                self.used += 1;
            }
            page.reserved = true;
        }
        if grow {
            self.size = self.size.max(offset + length);
        }
    }

    pub fn truncate(&mut self, size: u64) {
        if size < self.size {
            self.punch(size, self.pages.last_key_value().map_or(size, |(last, _)| (last + 1) * PAGE));
        }
        self.size = size;
    }

    /// Everything written and not dropped is durable, and the size.
    pub fn sync(&mut self) {
        self.durable_size = self.size;
        let pages = &mut self.pages;
        self.unsynced.retain(|&number| {
            let Some(page) = pages.get_mut(&number) else { return false };
            let Some(before) = &mut page.before else { return false };
            if before.dropped != 0 {
                for sector in (0..8).filter(|sector| before.dirty & (1 << sector) != 0) {
                    set_sector(&mut before.block, sector, &sector_of(&page.now, sector));
                }
                before.dirty = 0;
                return true;
            }
            page.before = None;
            if !page.is_used() {
                pages.remove(&number);
            }
            false
        });
    }

    /// A sync failed: what was dirty passes for clean, and is not durable.
    pub fn drop_dirty(&mut self) {
        for number in &self.unsynced {
            if let Some(before) = self.pages.get_mut(number).and_then(|page| page.before.as_mut()) {
                before.dropped |= before.dirty;
                before.dirty = 0;
            }
        }
    }

    /// Only what is durable is left, and of the rest what `random` keeps, each sector with the probability `keep`.
    pub fn lose_power(&mut self, keep: f64, random: &mut StdRng, lost: &mut Lost) {
        let size = self.draw_size(keep, random);
        lost.sizes += u64::from(size != self.size);
        let mut unsynced = std::mem::take(&mut self.unsynced);
        unsynced.sort_unstable();
        for number in unsynced {
            let Some(page) = self.pages.get_mut(&number) else { continue };
            let Some(before) = page.before.take() else { continue };
            for sector in 0..8 {
                let bit = 1 << sector;
                if before.dirty & bit != 0 && random.random_bool(keep) {
                    lost.sectors_kept += 1;
                } else if (before.dirty | before.dropped) & bit != 0 {
                    set_sector(&mut page.now, sector, &sector_of(&before.block, sector));
                    lost.sectors += 1;
                }
            }
        }
        self.size = size;
        self.durable_size = size;
        // What lies beyond the end is gone; nothing of it may show when the file grows again.
        let whole = size.div_ceil(PAGE);
        self.pages.retain(|&number, _| number < whole);
        if let Some(Page { now: Some(block), .. }) = self.pages.get_mut(&(size / PAGE)) {
            block[(size % PAGE) as usize..].fill(0);
        }
        self.used = self.pages.values().filter(|page| page.is_used()).count() as u64;
    }

    /// The old size, the new one or, if the file grew, one between at the end of a sector.
    fn draw_size(&self, keep: f64, random: &mut StdRng) -> u64 {
        if self.size == self.durable_size {
            return self.size;
        }
        if random.random_bool(keep) {
            return self.size;
        }
        if self.size > self.durable_size && random.random_bool(keep) {
            let between = random.random_range(self.durable_size..=self.size) / SECTOR as u64 * SECTOR as u64;
            return between.max(self.durable_size);
        }
        self.durable_size
    }

    /// Flips `count` bits drawn from `random` in both layers; returns the offsets of their bytes.
    pub fn flip_bits(&mut self, count: usize, random: &mut StdRng) -> Vec<u64> {
        if self.size == 0 {
            return Vec::new();
        }
        let mut flipped = std::collections::BTreeSet::new();
        let wanted = (count as u64).min(self.size.saturating_mul(8)) as usize;
        while flipped.len() < wanted {
            flipped.insert((random.random_range(0..self.size), random.random_range(0..8u8)));
        }
        for &(offset, bit) in &flipped {
            let page = self.pages.entry(offset / PAGE).or_default();
            if !page.is_used() {
                self.used += 1;
            }
            let within = (offset % PAGE) as usize;
            page.now.get_or_insert_with(zeros)[within] ^= 1 << bit;
            if let Some(before) = &mut page.before {
                before.block.get_or_insert_with(zeros)[within] ^= 1 << bit;
            }
        }
        flipped.into_iter().map(|(offset, _)| offset).collect()
    }
}

#[cfg(test)]
#[path = "content_test.rs"]
mod tests;
