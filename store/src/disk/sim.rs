//! A simulated disk: a volatile layer over a durable one, for files (per 512-byte sector and length) and for names
//! (per directory operation). A sync promotes; [`Sim::crash`] lets the caller choose, for each unsynced piece,
//! whether it reached the platter. Clones share one disk; each node of a simulation has its own.
//! Owns no clock and no randomness: choices and faults come from the caller, so a seed replays.
//! Invariants: a sector is atomic; what a successful sync covered survives every crash; pages of a failed sync are
//! readable until the crash, lost after it, and no later sync promotes them unless they are written again, as
//! Linux behaves; so is the sector in the middle of which a write stopped short. After `power_off_after(n)`
//! operations every call fails until `crash`, which also invalidates open handles and drops their locks.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, File, Mode};

const SECTOR_BYTES: usize = 512;
const ENOSPC: i32 = 28;
const EIO: i32 = 5;
const ROOT: u64 = 0;

type Sector = Box<[u8; SECTOR_BYTES]>;

/// Something a crash may keep or lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced<'a> {
    /// Sector `sector` of file `inode` was written.
    Sector { inode: u64, sector: u64 },
    /// The length of file `inode` changed.
    Length { inode: u64 },
    /// `name` was created, renamed (the new name) or removed.
    Name { name: &'a str },
}

/// An error for the operation that comes after `after` others of its kind, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `sync_data` fails and the dirty pages are forgotten.
    Sync { after: u64 },
    /// `write_at` stores only the first `written` bytes, then fails; a sector of which it stored a part is in memory
    /// only, until it is written again.
    Write { after: u64, written: usize },
}

/// A disk that forgets what was not synced.
#[derive(Debug, Clone, Default)]
pub struct Sim {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    nodes: BTreeMap<u64, Node>,
    next_inode: u64,
    /// Incremented by a crash; handles of an older generation are dead.
    generation: u64,
    operations: u64,
    power_off_at: Option<u64>,
    powered_off: bool,
    capacity_bytes: u64,
    sync_fault: Option<u64>,
    write_fault: Option<(u64, usize)>,
}

#[derive(Debug)]
enum Node {
    Dir(Dir),
    File(Contents),
}

#[derive(Debug, Default)]
struct Dir {
    visible: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    pending: Vec<DirOperation>,
}

#[derive(Debug, Clone)]
enum DirOperation {
    Link { name: String, inode: u64 },
    Rename { from: String, to: String, inode: u64 },
    Unlink { name: String },
}

#[derive(Debug, Default)]
struct Contents {
    /// Sectors as read now; an absent one is zeros.
    sectors: BTreeMap<u64, Sector>,
    len: u64,
    reserved_bytes: u64,
    durable_len: u64,
    /// The durable contents of each sector that differs from what is read.
    unsynced: BTreeMap<u64, Old>,
    locked_by: Option<u64>,
}

#[derive(Debug)]
struct Old {
    sector: Option<Sector>,
    /// A failed sync marked the page clean: no sync will write it.
    forgotten: bool,
}

#[derive(Debug)]
struct Handle {
    sim: Sim,
    inode: u64,
    generation: u64,
    id: u64,
    mode: Mode,
}

impl Default for State {
    fn default() -> Self {
        Self {
            nodes: BTreeMap::from([(ROOT, Node::Dir(Dir::default()))]),
            next_inode: ROOT + 1,
            generation: 0,
            operations: 0,
            power_off_at: None,
            powered_off: false,
            capacity_bytes: u64::MAX,
            sync_fault: None,
            write_fault: None,
        }
    }
}

impl Sim {
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power: `keep` is asked once for each unsynced piece, in a fixed order.
    pub fn crash(&self, keep: &mut dyn FnMut(Unsynced<'_>) -> bool) {
        let mut state = self.state();
        state.generation += 1;
        state.power_off_at = None;
        state.powered_off = false;
        state.sync_fault = None;
        state.write_fault = None;
        for (&inode, node) in &mut state.nodes {
            match node {
                Node::Dir(dir) => dir.crash(keep),
                Node::File(contents) => contents.crash(inode, keep),
            }
        }
        state.drop_unreachable();
    }

    /// Writing and naming operations done so far: the points at which a crash may be placed.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Lets `operations` more of them happen; the following one, and every call after it, fails until `crash`.
    pub fn power_off_after(&self, operations: u64) {
        let mut state = self.state();
        state.power_off_at = Some(state.operations.saturating_add(operations));
    }

    /// The chosen point was reached, and no crash came yet.
    pub fn is_powered_off(&self) -> bool {
        self.state().powered_off
    }

    /// Bytes that all files together occupy.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// Bytes all files together may occupy.
    pub fn set_capacity_bytes(&self, capacity_bytes: u64) {
        self.state().capacity_bytes = capacity_bytes;
    }

    pub fn inject(&self, fault: Fault) {
        let mut state = self.state();
        match fault {
            Fault::Sync { after } => state.sync_fault = Some(after),
            Fault::Write { after, written } => state.write_fault = Some((after, written)),
        }
    }

    /// Bit rot: inverts the bits of `mask` in one byte, in what is read and in what a crash would leave.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> io::Result<()> {
        let mut state = self.state();
        let inode = state.find(path)?;
        let contents = state.file(inode)?;
        let (sector, at) = split(offset);
        contents.sectors.entry(sector).or_insert_with(zeros)[at] ^= mask;
        if let Some(old) = contents.unsynced.get_mut(&sector) {
            old.sector.get_or_insert_with(zeros)[at] ^= mask;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn zeros() -> Sector {
    Box::new([0; SECTOR_BYTES])
}

fn split(offset: u64) -> (u64, usize) {
    (offset / SECTOR_BYTES as u64, (offset % SECTOR_BYTES as u64) as usize)
}

fn error(kind: io::ErrorKind, path: &Path) -> io::Error {
    io::Error::new(kind, format!("{}: {kind}", path.display()))
}

/// Parent and last component of a path.
fn parent_and_name(path: &Path) -> io::Result<(&Path, String)> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok((parent, name.to_string_lossy().into_owned())),
        _ => Err(error(io::ErrorKind::InvalidInput, path)),
    }
}

impl State {
    /// Counts an operation that changes something, and stops at the chosen point.
    fn change(&mut self) -> io::Result<()> {
        self.powered_off |= self.power_off_at == Some(self.operations);
        self.powered()?;
        self.operations += 1;
        Ok(())
    }

    fn powered(&self) -> io::Result<()> {
        if self.powered_off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut inode = ROOT;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            let Some(Node::Dir(dir)) = self.nodes.get(&inode) else {
                return Err(error(io::ErrorKind::NotADirectory, path));
            };
            let next = name.to_str().and_then(|name| dir.visible.get(name));
            inode = *next.ok_or_else(|| error(io::ErrorKind::NotFound, path))?;
        }
        Ok(inode)
    }

    fn dir(&mut self, path: &Path) -> io::Result<&mut Dir> {
        let inode = self.find(path)?;
        match self.nodes.get_mut(&inode) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(error(io::ErrorKind::NotADirectory, path)),
        }
    }

    fn file(&mut self, inode: u64) -> io::Result<&mut Contents> {
        match self.nodes.get_mut(&inode) {
            Some(Node::File(contents)) => Ok(contents),
            Some(Node::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn add(&mut self, node: Node) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.nodes.insert(inode, node);
        inode
    }

    fn used_bytes(&self) -> u64 {
        let named = self.nodes.values().filter_map(|node| match node {
            Node::Dir(dir) => Some(dir.visible.values()),
            Node::File(_) => None,
        });
        let files = named.flatten().filter_map(|inode| match self.nodes.get(inode) {
            Some(Node::File(contents)) => Some(contents.reserved_bytes),
            _ => None,
        });
        files.sum()
    }

    /// Fails unless file `inode` may grow to `reserved` bytes.
    fn reserve(&mut self, inode: u64, reserved: u64) -> io::Result<()> {
        let growth = reserved.saturating_sub(self.file(inode)?.reserved_bytes);
        if growth > 0
            && self.capacity_bytes < u64::MAX
            && self.used_bytes().saturating_add(growth) > self.capacity_bytes
        {
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        let contents = self.file(inode)?;
        contents.reserved_bytes = contents.reserved_bytes.max(reserved);
        Ok(())
    }

    fn drop_unreachable(&mut self) {
        let mut reachable = BTreeMap::new();
        let mut queue = vec![ROOT];
        while let Some(inode) = queue.pop() {
            if let Some(node) = self.nodes.remove(&inode) {
                if let Node::Dir(dir) = &node {
                    queue.extend(dir.visible.values().chain(dir.durable.values()));
                    queue.extend(dir.pending.iter().filter_map(DirOperation::inode));
                }
                reachable.insert(inode, node);
            }
        }
        self.nodes = reachable;
    }
}

impl DirOperation {
    fn inode(&self) -> Option<u64> {
        match self {
            DirOperation::Link { inode, .. } | DirOperation::Rename { inode, .. } => Some(*inode),
            DirOperation::Unlink { .. } => None,
        }
    }
}

impl Dir {
    fn apply(names: &mut BTreeMap<String, u64>, operation: &DirOperation) {
        match operation {
            DirOperation::Link { name, inode } => {
                names.insert(name.clone(), *inode);
            }
            DirOperation::Rename { from, to, inode } => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
            DirOperation::Unlink { name } => {
                names.remove(name);
            }
        }
    }

    fn change(&mut self, operation: DirOperation) {
        Self::apply(&mut self.visible, &operation);
        self.pending.push(operation);
    }

    fn sync(&mut self) {
        self.pending.clear();
        self.durable.clone_from(&self.visible);
    }

    fn crash(&mut self, keep: &mut dyn FnMut(Unsynced<'_>) -> bool) {
        for operation in std::mem::take(&mut self.pending) {
            let (DirOperation::Link { name, .. }
            | DirOperation::Rename { to: name, .. }
            | DirOperation::Unlink { name }) = &operation;
            if keep(Unsynced::Name { name }) {
                Self::apply(&mut self.durable, &operation);
            }
        }
        self.visible.clone_from(&self.durable);
    }
}

impl Contents {
    fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let count = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < count {
            let (sector, at) = split(offset + done as u64);
            let n = (SECTOR_BYTES - at).min(count - done);
            match self.sectors.get(&sector) {
                Some(data) => buf[done..done + n].copy_from_slice(&data[at..at + n]),
                None => buf[done..done + n].fill(0),
            }
            done += n;
        }
        count
    }

    /// Remembers what the platter holds for a sector about to change.
    fn dirty(&mut self, sector: u64) {
        match self.unsynced.get_mut(&sector) {
            Some(old) => old.forgotten = false,
            None => {
                let old = Old { sector: self.sectors.get(&sector).cloned(), forgotten: false };
                self.unsynced.insert(sector, old);
            }
        }
    }

    fn write(&mut self, data: &[u8], offset: u64) {
        let mut done = 0;
        while done < data.len() {
            let (sector, at) = split(offset + done as u64);
            let n = (SECTOR_BYTES - at).min(data.len() - done);
            self.dirty(sector);
            self.sectors.entry(sector).or_insert_with(zeros)[at..at + n]
                .copy_from_slice(&data[done..done + n]);
            done += n;
        }
        self.len = self.len.max(offset + data.len() as u64);
    }

    /// File systems end a short write between two pages. A part of a sector stays in memory, so that its writer meets
    /// every length, and a crash none that no disk would leave.
    fn write_short(&mut self, data: &[u8], offset: u64) {
        self.write(data, offset);
        let (sector, at) = split(offset + data.len() as u64);
        if at > 0
            && let Some(old) = self.unsynced.get_mut(&sector)
        {
            old.forgotten = true;
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (first, at) = split(len);
            let cut: Vec<u64> = self.sectors.range(first..).map(|(&sector, _)| sector).collect();
            for sector in cut {
                self.dirty(sector);
                if sector == first && at > 0 {
                    self.sectors.entry(sector).or_insert_with(zeros)[at..].fill(0);
                } else {
                    self.sectors.remove(&sector);
                }
            }
            self.reserved_bytes = self.reserved_bytes.min(len);
        }
        self.len = len;
    }

    fn sync(&mut self) {
        self.unsynced.retain(|_, old| old.forgotten);
        self.durable_len = self.len;
    }

    fn forget(&mut self) {
        for old in self.unsynced.values_mut() {
            old.forgotten = true;
        }
    }

    fn crash(&mut self, inode: u64, keep: &mut dyn FnMut(Unsynced<'_>) -> bool) {
        self.locked_by = None;
        for (sector, old) in std::mem::take(&mut self.unsynced) {
            if old.forgotten || !keep(Unsynced::Sector { inode, sector }) {
                match old.sector {
                    Some(data) => self.sectors.insert(sector, data),
                    None => self.sectors.remove(&sector),
                };
            }
        }
        if self.len != self.durable_len && !keep(Unsynced::Length { inode }) {
            self.len = self.durable_len;
        }
        self.durable_len = self.len;
        self.reserved_bytes = self.len;
        // Whatever survived beyond the end is out of reach and must not come back when the file grows.
        let (first, at) = split(self.len);
        self.sectors.retain(|&sector, _| sector < first || (sector == first && at > 0));
        if let Some(data) = self.sectors.get_mut(&first) {
            data[at..].fill(0);
        }
    }
}

impl Disk for Sim {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let mut parent = Path::new("/").to_path_buf();
        for component in dir.components() {
            let Component::Normal(name) = component else { continue };
            let path = parent.join(name);
            if state.find(&path).is_err() {
                let inode = state.add(Node::Dir(Dir::default()));
                let name = name.to_string_lossy().into_owned();
                let parent = state.dir(&parent)?;
                parent.visible.insert(name.clone(), inode);
                parent.durable.insert(name, inode);
            }
            parent = path;
        }
        state.dir(dir).map(|_| ())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.powered()?;
        Ok(state.dir(dir)?.visible.keys().cloned().collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        state.change()?;
        let inode = match state.find(path) {
            Ok(inode) => {
                state.file(inode)?.set_len(0);
                inode
            }
            Err(_) => {
                let (parent, name) = parent_and_name(path)?;
                state.dir(parent)?;
                let inode = state.add(Node::File(Contents::default()));
                state.dir(parent)?.change(DirOperation::Link { name, inode });
                inode
            }
        };
        Ok(self.handle(&mut state, inode, Mode::Write))
    }

    fn open(&self, path: &Path, mode: Mode) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        state.powered()?;
        let inode = state.find(path)?;
        state.file(inode)?;
        Ok(self.handle(&mut state, inode, mode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let inode = state.find(from)?;
        let (from_parent, from) = parent_and_name(from)?;
        let (to_parent, to) = parent_and_name(to)?;
        if from_parent != to_parent {
            return Err(error(io::ErrorKind::CrossesDevices, to_parent));
        }
        state.dir(from_parent)?.change(DirOperation::Rename { from, to, inode });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let inode = state.find(path)?;
        state.file(inode)?;
        let (parent, name) = parent_and_name(path)?;
        state.dir(parent)?.change(DirOperation::Unlink { name });
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.dir(path)?;
        let (parent, name) = parent_and_name(path)?;
        state.dir(parent)?.change(DirOperation::Unlink { name });
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.dir(dir)?.sync();
        state.drop_unreachable();
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.state();
        state.powered()?;
        Ok(state.capacity_bytes.saturating_sub(state.used_bytes()))
    }
}

impl Sim {
    fn handle(&self, state: &mut State, inode: u64, mode: Mode) -> Box<dyn File> {
        let id = state.next_inode;
        state.next_inode += 1;
        Box::new(Handle { sim: self.clone(), inode, generation: state.generation, id, mode })
    }
}

impl Handle {
    fn live(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.sim.state();
        state.powered()?;
        if state.generation != self.generation {
            return Err(io::Error::other("the file was open before the crash"));
        }
        Ok(state)
    }

    fn change(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.live()?;
        if self.mode == Mode::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        state.change()?;
        Ok(state)
    }
}

impl File for Handle {
    fn try_lock(&self) -> io::Result<()> {
        let mut state = self.live()?;
        let contents = state.file(self.inode)?;
        match contents.locked_by {
            Some(id) if id != self.id => Err(io::ErrorKind::WouldBlock.into()),
            _ => {
                contents.locked_by = Some(self.id);
                Ok(())
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.live()?.file(self.inode)?.len)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.live()?.file(self.inode)?.read(buf, offset))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.change()?;
        match state.write_fault {
            Some((0, written)) => {
                state.write_fault = None;
                let written = written.min(data.len());
                state.file(self.inode)?.write_short(&data[..written], offset);
                return Err(io::Error::from_raw_os_error(EIO));
            }
            Some((after, written)) => state.write_fault = Some((after - 1, written)),
            None => {}
        }
        state.reserve(self.inode, offset + data.len() as u64)?;
        state.file(self.inode)?.write(data, offset);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change()?.file(self.inode)?.set_len(len);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.change()?;
        state.reserve(self.inode, len)?;
        let contents = state.file(self.inode)?;
        contents.len = contents.len.max(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.change()?;
        match state.sync_fault {
            Some(0) => {
                state.sync_fault = None;
                state.file(self.inode)?.forget();
                return Err(io::Error::from_raw_os_error(EIO));
            }
            Some(after) => state.sync_fault = Some(after - 1),
            None => {}
        }
        state.file(self.inode)?.sync();
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.sim.state();
        if let Ok(contents) = state.file(self.inode)
            && contents.locked_by == Some(self.id)
        {
            contents.locked_by = None;
        }
    }
}
