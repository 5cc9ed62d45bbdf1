//! A file system in memory that fails on demand and forgets what was not synced.
//!
//! In: a [`Fault`] and a seed. Out: the same operations as the real one, until the fault. [`SimulatedStorage::cut_power`] gives what
//! a disk may hold then: content that was not synced is kept, lost, torn by sectors or kept out of order; names that
//! were not synced are there or not. After a failed sync the bytes concerned may never reach the disk, whatever a later
//! sync says, as on Linux. The same seed gives the same outcome.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Cursor, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Appender, Entry, Lock, Room, Storage};

/// Bytes that a disk writes as one.
const SECTOR: usize = 512;

/// Kinds of operations that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Making, appending to and cutting files.
    Write,
    /// Syncing a file, a folder or everything.
    Sync,
    /// Renaming.
    Rename,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The `nth` operation of a kind, from 1, and with `forever` all later ones.
    Fail {
        /// Which kind.
        operation: Operation,
        /// Which of them.
        nth: u64,
        /// Whether all later ones fail as well.
        forever: bool,
        /// What they say.
        error: io::ErrorKind,
    },
    /// The power goes during operation number `at`, of any kind, from 1.
    PowerCut {
        /// Which.
        at: u64,
    },
}

/// How many operations there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct Counts {
    pub writes: u64,
    pub syncs: u64,
    pub renames: u64,
    pub all: u64,
}

/// The simulated file system; clones are the same one.
#[derive(Clone, Debug)]
pub struct SimulatedStorage(Arc<Mutex<World>>);

#[derive(Debug)]
struct World {
    dirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending_names: Vec<NameChange>,
    files: BTreeMap<u64, Inode>,
    next_file: u64,
    locks: BTreeSet<PathBuf>,
    counts: Counts,
    fault: Fault,
    random: u64,
    off: bool,
    free: u64,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Cut { len: usize },
}

#[derive(Clone, Debug)]
enum NameChange {
    Make { path: PathBuf, file: u64 },
    Remove { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, file: u64 },
}

impl NameChange {
    fn folder(&self) -> Option<&Path> {
        match self {
            Self::Make { path, .. } | Self::Remove { path } => path.parent(),
            Self::Rename { to, .. } => to.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Make { path, file } => {
                names.insert(path.clone(), *file);
            }
            Self::Remove { path } => {
                names.remove(path);
            }
            Self::Rename { from, to, file } => {
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
        }
    }
}

fn apply(change: &Change, content: &mut Vec<u8>) {
    match change {
        Change::Write { offset, bytes } => {
            let end = offset + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            if let Some(target) = content.get_mut(*offset..end) {
                target.copy_from_slice(bytes);
            }
        }
        Change::Cut { len } => content.truncate(*len),
    }
}

fn no_power() -> io::Error {
    io::Error::other("the power is off")
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

/// What is to be done about an operation.
enum Gate {
    Go,
    /// It fails, perhaps half done.
    Fail(io::Error),
    /// It was under way when the power went.
    Cut,
}

impl World {
    /// The next pseudo-random number. Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators"
    /// (2014), `SplitMix64`.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random() % (bound.max(1) as u64)).unwrap_or(0)
    }

    fn gate(&mut self, operation: Operation) -> io::Result<Gate> {
        if self.off {
            return Err(no_power());
        }
        self.counts.all += 1;
        let count = match operation {
            Operation::Write => &mut self.counts.writes,
            Operation::Sync => &mut self.counts.syncs,
            Operation::Rename => &mut self.counts.renames,
        };
        *count += 1;
        let count = *count;
        Ok(match self.fault {
            Fault::Fail { operation: which, nth, forever, error }
                if which == operation && (count == nth || (forever && count > nth)) =>
            {
                Gate::Fail(error.into())
            }
            Fault::PowerCut { at } if at == self.counts.all => {
                self.off = true;
                Gate::Cut
            }
            Fault::None | Fault::Fail { .. } | Fault::PowerCut { .. } => Gate::Go,
        })
    }

    fn file(&mut self, path: &Path) -> io::Result<&mut Inode> {
        if self.off {
            return Err(no_power());
        }
        let file = self.names.get(path).ok_or_else(not_found)?;
        self.files.get_mut(file).ok_or_else(not_found)
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    /// What the disk holds of a file when the power goes.
    fn survive(&mut self, inode: &Inode) -> Vec<u8> {
        let mut content = inode.durable.clone();
        let (mode, kept) = (self.below(4), self.below(inode.pending.len() + 1));
        for (at, change) in inode.pending.iter().enumerate() {
            let keep = match mode {
                0 => false,
                1 => true,
                2 => at < kept,
                _ => self.below(2) == 0,
            };
            match change {
                Change::Write { offset, bytes } if mode == 3 || (mode == 2 && at == kept) => {
                    for (sector, part) in bytes.chunks(SECTOR).enumerate() {
                        if self.below(2) == 0 {
                            let len =
                                if self.below(8) == 0 { self.below(part.len() + 1) } else { part.len() };
                            let bytes = part.get(..len).unwrap_or_default().to_vec();
                            apply(&Change::Write { offset: offset + sector * SECTOR, bytes }, &mut content);
                        }
                    }
                }
                change if keep => apply(change, &mut content),
                _ => {}
            }
        }
        content
    }

    fn sync_names(&mut self, folder: Option<&Path>) {
        let (durable, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending_names)
            .into_iter()
            .partition(|change| folder.is_none_or(|folder| change.folder() == Some(folder)));
        self.pending_names = waiting;
        for change in durable {
            change.apply(&mut self.durable_names);
        }
    }
}

fn sync_inode(inode: &mut Inode) {
    inode.pending.clear();
    inode.durable.clone_from(&inode.now);
}

impl SimulatedStorage {
    /// An empty file system with `free` bytes.
    pub fn new(seed: u64, fault: Fault) -> Self {
        Self(Arc::new(Mutex::new(World {
            dirs: BTreeSet::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            files: BTreeMap::new(),
            next_file: 0,
            locks: BTreeSet::new(),
            counts: Counts::default(),
            fault,
            random: seed,
            off: false,
            free: 1 << 40,
        })))
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations so far.
    pub fn counts(&self) -> Counts {
        self.world().counts
    }

    /// Sets the bytes that [`Storage::room`] tells.
    pub fn set_free(&self, free: u64) {
        self.world().free = free;
    }

    /// Sets what goes wrong from here on, counted anew.
    pub fn set_fault(&self, fault: Fault) {
        let mut world = self.world();
        world.fault = fault;
        world.counts = Counts::default();
    }

    /// The file system as another process finds it after this one was killed: everything written is there.
    #[must_use]
    pub fn kill(&self) -> Self {
        let world = self.world();
        let mut after = world.copy();
        after.names.clone_from(&world.names);
        after.durable_names.clone_from(&world.durable_names);
        after.pending_names.clone_from(&world.pending_names);
        after.files.clone_from(&world.files);
        Self(Arc::new(Mutex::new(after)))
    }

    /// The file system as it may be found after a power cut.
    #[must_use]
    pub fn cut_power(&self) -> Self {
        let mut world = self.world();
        let mut names = world.durable_names.clone();
        let pending = world.pending_names.clone();
        let (mode, kept) = (world.below(4), world.below(pending.len() + 1));
        for (at, change) in pending.iter().enumerate() {
            let keep = match mode {
                0 => false,
                1 => true,
                2 => at < kept,
                _ => world.below(2) == 0,
            };
            if keep {
                change.apply(&mut names);
            }
        }
        let mut files = BTreeMap::new();
        for file in names.values() {
            let Some(inode) = world.files.get(file).cloned() else { continue };
            let content = world.survive(&inode);
            let survived = Inode { now: content.clone(), durable: content, pending: Vec::new() };
            files.insert(*file, survived);
        }
        let mut after = world.copy();
        after.names.clone_from(&names);
        after.durable_names = names;
        after.files = files;
        Self(Arc::new(Mutex::new(after)))
    }

    /// Changes the content of a file as damage to the disk does.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut world = self.world();
        let inode = world.file(path)?;
        change(&mut inode.now);
        sync_inode(inode);
        Ok(())
    }

    /// Every file, by path.
    pub fn files(&self) -> Vec<PathBuf> {
        self.world().names.keys().cloned().collect()
    }
}

impl World {
    /// An empty world that goes on where this one stands.
    fn copy(&self) -> Self {
        Self {
            dirs: self.dirs.clone(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            files: BTreeMap::new(),
            next_file: self.next_file,
            locks: BTreeSet::new(),
            counts: Counts::default(),
            fault: Fault::None,
            random: self.random,
            off: false,
            free: self.free,
        }
    }
}

#[derive(Debug)]
struct SimulatedFile {
    world: SimulatedStorage,
    file: u64,
}

impl Appender for SimulatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.world.world();
        let gate = world.gate(Operation::Write)?;
        let len = match gate {
            Gate::Fail(_) => world.below(bytes.len() + 1),
            Gate::Go | Gate::Cut => bytes.len(),
        };
        let inode = world.files.get_mut(&self.file).ok_or_else(not_found)?;
        let bytes = bytes.get(..len).unwrap_or_default().to_vec();
        let change = Change::Write { offset: inode.now.len(), bytes };
        apply(&change, &mut inode.now);
        inode.pending.push(change);
        finish(gate)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut world = self.world.world();
        let gate = world.gate(Operation::Sync)?;
        let inode = world.files.get(&self.file).cloned().ok_or_else(not_found)?;
        let after = match gate {
            Gate::Go => Inode { now: inode.now.clone(), durable: inode.now, pending: Vec::new() },
            // The kernel forgets which bytes it did not write.
            Gate::Fail(_) => {
                let durable = world.survive(&inode);
                Inode { now: inode.now, durable, pending: Vec::new() }
            }
            Gate::Cut => inode,
        };
        world.files.insert(self.file, after);
        finish(gate)
    }
}

fn finish(gate: Gate) -> io::Result<()> {
    match gate {
        Gate::Go => Ok(()),
        Gate::Fail(error) => Err(error),
        Gate::Cut => Err(no_power()),
    }
}

#[derive(Debug)]
struct SimulatedLock {
    world: SimulatedStorage,
    path: PathBuf,
}

impl Lock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.world.world().locks.remove(&self.path);
    }
}

impl Storage for SimulatedStorage {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        if world.off {
            return Err(no_power());
        }
        world.dirs.insert(path.to_owned());
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Appender>> {
        let mut world = self.world();
        let gate = world.gate(Operation::Write)?;
        if matches!(gate, Gate::Go | Gate::Cut) {
            match world.names.get(path).copied() {
                Some(file) => {
                    if let Some(inode) = world.files.get_mut(&file) {
                        inode.now.clear();
                        inode.pending.push(Change::Cut { len: 0 });
                    }
                }
                None => {
                    let file = world.next_file;
                    world.next_file += 1;
                    world.files.insert(file, Inode::default());
                    world.rename(NameChange::Make { path: path.to_owned(), file });
                }
            }
        }
        finish(gate)?;
        let file = world.names.get(path).copied().ok_or_else(not_found)?;
        Ok(Box::new(SimulatedFile { world: self.clone(), file }))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn Appender>> {
        let mut world = self.world();
        world.file(path)?;
        let file = world.names.get(path).copied().ok_or_else(not_found)?;
        Ok(Box::new(SimulatedFile { world: self.clone(), file }))
    }

    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let mut world = self.world();
        let inode = world.file(path)?;
        if inode.now.len() as u64 > limit {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(inode.now.clone())
    }

    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut world = self.world();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = world.file(path)?.now.get(start..start.saturating_add(len)).map(<[u8]>::to_vec);
        bytes.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.read(path, u64::MAX)?)))
    }

    fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut world = self.world();
        let gate = world.gate(Operation::Write)?;
        let inode = world.file_even_off(path)?;
        let change = Change::Cut { len: usize::try_from(len).unwrap_or(usize::MAX) };
        if matches!(gate, Gate::Go | Gate::Cut) {
            apply(&change, &mut inode.now);
            inode.pending.push(change);
        }
        finish(gate)?;
        let gate = world.gate(Operation::Sync)?;
        if matches!(gate, Gate::Go) {
            sync_inode(world.file_even_off(path)?);
        }
        finish(gate)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        let gate = world.gate(Operation::Rename)?;
        if matches!(gate, Gate::Go | Gate::Cut) {
            let file = world.names.get(from).copied().ok_or_else(not_found)?;
            world.rename(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), file });
        }
        finish(gate)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        if world.off {
            return Err(no_power());
        }
        if world.names.contains_key(path) {
            world.rename(NameChange::Remove { path: path.to_owned() });
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        let gate = world.gate(Operation::Sync)?;
        if matches!(gate, Gate::Go) {
            world.sync_names(Some(path));
        }
        finish(gate)
    }

    fn sync_all(&self, _: &Path) -> io::Result<()> {
        let mut world = self.world();
        let gate = world.gate(Operation::Sync)?;
        match gate {
            Gate::Go => {
                world.files.values_mut().for_each(sync_inode);
                world.sync_names(None);
            }
            Gate::Fail(_) => {
                let waiting: Vec<(u64, Inode)> = world
                    .files
                    .iter()
                    .filter(|(_, inode)| !inode.pending.is_empty())
                    .map(|(file, inode)| (*file, inode.clone()))
                    .collect();
                for (file, inode) in waiting {
                    let durable = world.survive(&inode);
                    world.files.insert(file, Inode { now: inode.now, durable, pending: Vec::new() });
                }
            }
            Gate::Cut => {}
        }
        finish(gate)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let world = self.world();
        if world.off {
            return Err(no_power());
        }
        let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
        let files =
            world.names.iter().filter(|(file, _)| file.parent() == Some(path)).filter_map(|(file, id)| {
                let len = world.files.get(id)?.now.len() as u64;
                Some(Entry { name: name(file)?, len, is_dir: false })
            });
        let dirs = world.dirs.iter().filter(|dir| dir.parent() == Some(path));
        let dirs = dirs.filter_map(|dir| Some(Entry { name: name(dir)?, len: 0, is_dir: true }));
        let mut entries: Vec<_> = files.chain(dirs).collect();
        entries.sort();
        Ok(entries)
    }

    fn len(&self, path: &Path) -> io::Result<Option<u64>> {
        match self.world().file(path) {
            Ok(inode) => Ok(Some(inode.now.len() as u64)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        if !self.world().locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimulatedLock { world: self.clone(), path: path.to_owned() }))
    }

    fn reserve(&self, path: &Path, len: u64) -> io::Result<()> {
        let mut file = self.create(path)?;
        file.append(&vec![0xA5; usize::try_from(len).unwrap_or(0)])?;
        file.sync()
    }

    fn room(&self, _: &Path) -> io::Result<Room> {
        let world = self.world();
        if world.off { Err(no_power()) } else { Ok(Room { free: world.free, total: world.free }) }
    }
}

impl World {
    fn file_even_off(&mut self, path: &Path) -> io::Result<&mut Inode> {
        let file = self.names.get(path).ok_or_else(not_found)?;
        self.files.get_mut(file).ok_or_else(not_found)
    }
}
