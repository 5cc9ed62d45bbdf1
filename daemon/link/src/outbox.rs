//! What must reach the broker: kept until the broker has acknowledged it, over lost connections, lost sessions and
//! crashes.
//!
//! In: drafts of messages. Out: one item after the other, newest state first; each stays in the store until
//! [`Outbox::acknowledged`]. Refuses what is too large, and audit items when there is no room at all, so that whoever
//! wants to act must wait. When it is full otherwise: logs go first (oldest first), then metrics are thinned out in
//! time, then the oldest events go; of state only the newest of each key is kept anyway. What was dropped is counted.
//!
//! The payloads stay in the store; memory holds about a hundred bytes an item. Decides only: waits for nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use agentd_types::{Code, Coded, UnixTime, chain};
use agentd_wire::{Section, Up};
use bytes::Bytes;
use log::warn;
use serde::{Deserialize, Serialize};

/// No item is larger, in bytes.
pub const MAX_ITEM_BYTES: usize = 256 << 10;

/// What kind of item it is: says what happens to it when the outbox is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Never dropped.
    Audit,
    /// The oldest go when nothing lesser is left.
    Event,
    /// The newest of each key is kept.
    State,
    /// Thinned out in time.
    Metric,
    /// The oldest go first.
    Log,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 5] = [Self::Audit, Self::Event, Self::State, Self::Metric, Self::Log];

    const fn index(self) -> usize {
        match self {
            Self::Audit => 0,
            Self::Event => 1,
            Self::State => 2,
            Self::Metric => 3,
            Self::Log => 4,
        }
    }
}

/// The topic that an item goes to, below the device's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// `tele`.
    Tele,
    /// `event`.
    Event,
    /// `audit`.
    Audit,
    /// `res`.
    Res,
    /// `rep/{section}`, retained.
    Rep(Section),
}

impl From<Channel> for Up {
    fn from(channel: Channel) -> Self {
        match channel {
            Channel::Tele => Self::Tele,
            Channel::Event => Self::Event,
            Channel::Audit => Self::Audit,
            Channel::Res => Self::Res,
            Channel::Rep(section) => Self::Rep(section),
        }
    }
}

/// Names an item: rises with every item that is put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemId(pub u64);

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What kind of item it is.
    pub class: Class,
    /// Where it goes.
    pub channel: Channel,
    /// For state: what it is the state of. A newer item with the same key takes its place.
    pub key: Option<String>,
    /// What is told.
    pub payload: Bytes,
}

/// An item as the store keeps it; [`Item::encode`] gives the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub id: ItemId,
    /// What kind of item it is.
    pub class: Class,
    /// Where it goes.
    pub channel: Channel,
    /// For state: what it is the state of.
    pub key: Option<String>,
    /// When it was put in, by the device's clock.
    pub at: UnixTime,
    /// What is told.
    pub payload: Bytes,
}

/// The head of an encoded item; its payload follows it.
#[derive(Serialize, Deserialize)]
struct Head {
    id: ItemId,
    class: Class,
    channel: Channel,
    key: Option<String>,
    at: UnixTime,
}

impl Item {
    /// The item as bytes, for a store: the length of the head in four bytes, big-endian, the head as JSON, the payload.
    pub fn encode(&self) -> Vec<u8> {
        let Self { id, class, channel, key, at, payload } = self;
        let head = Head { id: *id, class: *class, channel: *channel, key: key.clone(), at: *at };
        // A head is plain data with text keys: it can always be written. An empty one is refused on reading.
        let head = serde_json::to_vec(&head).unwrap_or_default();
        let length = u32::try_from(head.len()).unwrap_or_default();
        [&length.to_be_bytes(), &head[..], payload].concat()
    }

    /// The item that [`Self::encode`] wrote; `None` when the bytes are no item.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (head, payload) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let Head { id, class, channel, key, at } = serde_json::from_slice(head).ok()?;
        Some(Self { id, class, channel, key, at, payload: Bytes::copy_from_slice(payload) })
    }
}

/// An item without its payload: what the outbox holds in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub id: ItemId,
    /// What kind of item it is.
    pub class: Class,
    /// For state: what it is the state of.
    pub key: Option<String>,
    /// Bytes of the payload.
    pub bytes: u64,
}

impl From<&Item> for Entry {
    fn from(item: &Item) -> Self {
        Self { id: item.id, class: item.class, key: item.key.clone(), bytes: item.payload.len() as u64 }
    }
}

/// What a store says when it cannot.
pub type StoreError = Box<dyn std::error::Error + Send + Sync>;

/// Keeps items over crashes. Calls may wait for the disk: the link makes them where waiting is allowed.
pub trait OutboxStore: Send + fmt::Debug {
    /// Keeps an item; once this returns, the item survives a crash.
    ///
    /// # Errors
    /// When it is not certain to survive one.
    fn append(&mut self, item: &Item) -> Result<(), StoreError>;

    /// Forgets items. They may come back after a crash, then they are sent again.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn remove(&mut self, ids: &[ItemId]) -> Result<(), StoreError>;

    /// Every item that was kept and not forgotten, in the order of ids.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn pending(&mut self) -> Result<Vec<Entry>, StoreError>;

    /// The item with this id, if it is kept.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn load(&mut self, id: ItemId) -> Result<Option<Item>, StoreError>;
}

/// How much an outbox holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Bytes of payloads.
    pub bytes: u64,
    /// Items.
    pub items: usize,
}

impl Default for OutboxLimits {
    /// 64 MiB and 100,000 items: about 10 MB of memory at most.
    fn default() -> Self {
        Self { bytes: 64 << 20, items: 100_000 }
    }
}

/// Why an item was not taken, or an outbox cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Too large.
    #[error("the item has {0} bytes, more than {MAX_ITEM_BYTES}")]
    TooLarge(usize),
    /// No room, even with everything dropped that may be.
    #[error("the outbox is full: {items} items, {bytes} bytes, none of which may be dropped")]
    Full {
        /// Items in it.
        items: usize,
        /// Bytes in it.
        bytes: u64,
    },
    /// The store failed.
    #[error("the outbox cannot be kept")]
    Store(#[source] StoreError),
    /// Whoever runs the outbox has stopped.
    #[error("the link has stopped")]
    Stopped,
}

impl Coded for OutboxError {
    fn code(&self) -> Code {
        Code::new(match self {
            Self::TooLarge(_) => "outbox.too_large",
            Self::Full { .. } => "outbox.full",
            Self::Store(_) => "outbox.store",
            Self::Stopped => "outbox.stopped",
        })
    }

    fn is_transient(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Store(_))
    }
}

/// How many items of each class were dropped since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "one count a class; audit items are never dropped")]
pub struct Dropped {
    pub events: u64,
    pub metrics: u64,
    pub logs: u64,
    /// Replaced by a newer item of the same key.
    pub outdated_states: u64,
}

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named with their meaning")]
pub struct Waiting {
    pub items: usize,
    pub bytes: u64,
    pub in_flight: usize,
    pub dropped: Dropped,
}

/// The durable outbox.
#[derive(Debug)]
pub struct Outbox {
    store: Box<dyn OutboxStore>,
    limits: OutboxLimits,
    // One map a class, in the order of `Class::ALL`; oldest first within each.
    classes: [BTreeMap<ItemId, Entry>; 5],
    // Invariant: every value is in the map of states, under that key.
    newest: BTreeMap<String, ItemId>,
    in_flight: BTreeSet<ItemId>,
    // Refused on this connection: not tried again before the next.
    set_aside: BTreeSet<ItemId>,
    bytes: u64,
    next_id: u64,
    dropped: Dropped,
}

impl Outbox {
    /// An outbox with what the store kept.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn open(mut store: Box<dyn OutboxStore>, limits: OutboxLimits) -> Result<Self, OutboxError> {
        let pending = store.pending().map_err(OutboxError::Store)?;
        let mut outbox = Self {
            store,
            limits,
            classes: Default::default(),
            newest: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            set_aside: BTreeSet::new(),
            bytes: 0,
            next_id: 1,
            dropped: Dropped::default(),
        };
        let mut outdated = Vec::new();
        for entry in pending {
            outbox.next_id = outbox.next_id.max(entry.id.0.saturating_add(1));
            outdated.extend(outbox.insert(entry));
        }
        outbox.forget(&outdated)?;
        Ok(outbox)
    }

    /// Takes an item; once this returns, it survives a crash and leaves no earlier than the broker acknowledges it,
    /// but for what the policy of its class allows when there is no room.
    ///
    /// # Errors
    /// When the item is too large, there is no room, or the store fails; then nothing has changed.
    pub fn put(&mut self, draft: Draft, now: UnixTime) -> Result<ItemId, OutboxError> {
        if draft.payload.len() > MAX_ITEM_BYTES {
            return Err(OutboxError::TooLarge(draft.payload.len()));
        }
        let Draft { class, channel, key, payload } = draft;
        let key = if class == Class::State { Some(key.unwrap_or_default()) } else { None };
        let replaced = key.as_ref().and_then(|key| self.newest.get(key)).copied();
        let victims = self.make_room(class, payload.len() as u64, replaced)?;
        let id = ItemId(self.next_id);
        let item = Item { id, class, channel, key, at: now, payload };
        self.store.append(&item).map_err(OutboxError::Store)?;
        self.next_id += 1;
        let outdated = self.insert(Entry::from(&item));
        for victim in &victims {
            self.count(*victim);
        }
        // The item is safe; what was to go and could not be removed comes back after a crash at worst.
        if let Err(error) = self.forget(&[&victims[..], outdated.as_slice()].concat()) {
            warn!(event = "outbox.remove_failed", error = chain(&error).as_str(); "Outbox keeps dropped items");
        }
        Ok(id)
    }

    /// The next item to send: newest state, then audit items, events, metrics and logs, oldest first. It is in flight
    /// from now on.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn next_item(&mut self) -> Result<Option<Item>, OutboxError> {
        while let Some(id) = self.next_id() {
            match self.store.load(id).map_err(OutboxError::Store)? {
                Some(item) => {
                    self.in_flight.insert(id);
                    return Ok(Some(item));
                }
                // The store has it no longer: nothing to send.
                None => self.take_out(id),
            }
        }
        Ok(None)
    }

    /// The broker has the item: it is forgotten.
    ///
    /// # Errors
    /// When the store cannot be written; the item may then be sent again after a crash.
    pub fn acknowledged(&mut self, id: ItemId) -> Result<(), OutboxError> {
        self.forget(&[id])
    }

    /// The broker refused the item: it is kept, and tried again on the next connection.
    pub fn refused(&mut self, id: ItemId) {
        self.in_flight.remove(&id);
        self.set_aside.insert(id);
    }

    /// The item did not get through: it is tried again.
    pub fn returned(&mut self, id: ItemId) {
        self.in_flight.remove(&id);
    }

    /// The connection is gone: whatever was in flight, and whatever was refused, is tried again.
    pub fn connection_lost(&mut self) {
        self.in_flight.clear();
        self.set_aside.clear();
    }

    /// Whether there is something to send.
    pub fn has_next(&self) -> bool {
        self.next_id().is_some()
    }

    /// What waits, and what was dropped.
    pub fn waiting(&self) -> Waiting {
        Waiting {
            items: self.len(),
            bytes: self.bytes,
            in_flight: self.in_flight.len(),
            dropped: self.dropped,
        }
    }

    fn len(&self) -> usize {
        self.classes.iter().map(BTreeMap::len).sum()
    }

    fn class(&self, class: Class) -> &BTreeMap<ItemId, Entry> {
        let [audit, event, state, metric, log] = &self.classes;
        match class {
            Class::Audit => audit,
            Class::Event => event,
            Class::State => state,
            Class::Metric => metric,
            Class::Log => log,
        }
    }

    fn next_id(&self) -> Option<ItemId> {
        let free = |id: &&ItemId| !self.in_flight.contains(id) && !self.set_aside.contains(id);
        let newest_state = self.class(Class::State).keys().rev().find(free);
        newest_state
            .or_else(|| {
                [Class::Audit, Class::Event, Class::Metric, Class::Log]
                    .into_iter()
                    .find_map(|class| self.class(class).keys().find(free))
            })
            .copied()
    }

    /// Puts an entry into the maps and returns the older state whose place it takes.
    fn insert(&mut self, entry: Entry) -> Option<ItemId> {
        self.bytes += entry.bytes;
        let outdated = entry.key.clone().and_then(|key| self.newest.insert(key, entry.id));
        if let Some(map) = self.classes.get_mut(entry.class.index()) {
            map.insert(entry.id, entry);
        }
        if outdated.is_some() {
            self.dropped.outdated_states += 1;
        }
        outdated
    }

    /// Takes an entry out of the maps.
    fn take_out(&mut self, id: ItemId) {
        self.in_flight.remove(&id);
        self.set_aside.remove(&id);
        if let Some(entry) = self.classes.iter_mut().find_map(|map| map.remove(&id)) {
            self.bytes = self.bytes.saturating_sub(entry.bytes);
            if let Some(key) = entry.key
                && self.newest.get(&key) == Some(&id)
            {
                self.newest.remove(&key);
            }
        }
    }

    fn forget(&mut self, ids: &[ItemId]) -> Result<(), OutboxError> {
        let held: Vec<_> =
            ids.iter().copied().filter(|id| self.classes.iter().any(|map| map.contains_key(id))).collect();
        for id in &held {
            self.take_out(*id);
        }
        if held.is_empty() { Ok(()) } else { self.store.remove(&held).map_err(OutboxError::Store) }
    }

    fn count(&mut self, victim: ItemId) {
        if self.class(Class::Event).contains_key(&victim) {
            self.dropped.events += 1;
        } else if self.class(Class::Metric).contains_key(&victim) {
            self.dropped.metrics += 1;
        } else {
            self.dropped.logs += 1;
        }
    }

    /// Which items must go so that `bytes` more of `class` fit. Nothing goes for something of a lesser class.
    fn make_room(
        &self,
        class: Class,
        bytes: u64,
        replaced: Option<ItemId>,
    ) -> Result<Vec<ItemId>, OutboxError> {
        let replaced = replaced.and_then(|id| self.class(Class::State).get(&id));
        let held = self.len() - usize::from(replaced.is_some());
        let held_bytes = self.bytes - replaced.map_or(0, |entry| entry.bytes);
        let mut room = Room {
            items: (held + 1).saturating_sub(self.limits.items),
            bytes: (held_bytes + bytes).saturating_sub(self.limits.bytes),
            victims: Vec::new(),
        };
        room.take(self.class(Class::Log).values());
        if class != Class::Log {
            room.thin_out(self.class(Class::Metric));
        }
        if !matches!(class, Class::Log | Class::Metric) {
            room.take(self.class(Class::Event).values());
        }
        if room.is_enough() {
            Ok(room.victims)
        } else {
            Err(OutboxError::Full { items: self.len(), bytes: self.bytes })
        }
    }
}

/// What still has to be freed.
struct Room {
    items: usize,
    bytes: u64,
    victims: Vec<ItemId>,
}

impl Room {
    const fn is_enough(&self) -> bool {
        self.items == 0 && self.bytes == 0
    }

    /// Takes metrics whose neighbours are nearest, so that what is left is spread over the whole time; in each round no
    /// two neighbours. The oldest and the newest go last.
    fn thin_out(&mut self, metrics: &BTreeMap<ItemId, Entry>) {
        let mut left: Vec<&Entry> = metrics.values().collect();
        while !self.is_enough() && !left.is_empty() {
            let mut gaps: Vec<_> = left
                .windows(3)
                .enumerate()
                .filter_map(|(n, three)| match three {
                    [before, _, after] => Some((after.id.0 - before.id.0, n + 1)),
                    _ => None,
                })
                .collect();
            gaps.sort_unstable();
            if gaps.is_empty() {
                self.take(left.drain(..));
                return;
            }
            let mut gone = BTreeSet::new();
            for (_, at) in gaps {
                if self.is_enough() {
                    return;
                }
                if !gone.contains(&(at - 1)) && !gone.contains(&(at + 1)) {
                    self.take(left.get(at).copied().into_iter());
                    gone.insert(at);
                }
            }
            let mut at = 0..;
            left.retain(|_| at.next().is_none_or(|at| !gone.contains(&at)));
        }
    }

    fn take<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        for entry in entries {
            if self.is_enough() {
                return;
            }
            self.items = self.items.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(entry.bytes);
            self.victims.push(entry.id);
        }
    }
}

/// A store that forgets everything when the process ends: for tests, and for devices that want no outbox on disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryOutbox {
    items: std::sync::Arc<std::sync::Mutex<BTreeMap<ItemId, Item>>>,
}

impl MemoryOutbox {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ItemId, Item>> {
        self.items.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl OutboxStore for MemoryOutbox {
    fn append(&mut self, item: &Item) -> Result<(), StoreError> {
        self.lock().insert(item.id, item.clone());
        Ok(())
    }

    fn remove(&mut self, ids: &[ItemId]) -> Result<(), StoreError> {
        let mut items = self.lock();
        for id in ids {
            items.remove(id);
        }
        Ok(())
    }

    fn pending(&mut self) -> Result<Vec<Entry>, StoreError> {
        Ok(self.lock().values().map(Entry::from).collect())
    }

    fn load(&mut self, id: ItemId) -> Result<Option<Item>, StoreError> {
        Ok(self.lock().get(&id).cloned())
    }
}
