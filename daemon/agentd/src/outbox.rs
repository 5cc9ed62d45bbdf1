//! The link's outbox on the store's durable queue.

use std::{collections::BTreeMap, sync::Arc};

use agentd_link::{Class, Entry, Item, ItemId, OutboxStore, StoreError};
use agentd_store::{Class as StoreClass, Outbox, Store};

/// Messages read at a time.
const PAGE: usize = 256;

/// The link's outbox on disk.
#[derive(Debug)]
pub(crate) struct DiskOutbox {
    store: Arc<Store>,
    /// Where the store keeps each item.
    places: BTreeMap<ItemId, u64>,
}

impl DiskOutbox {
    pub(crate) const fn new(store: Arc<Store>) -> Self {
        Self { store, places: BTreeMap::new() }
    }

    fn queue(&self) -> &Outbox {
        self.store.outbox()
    }
}

impl OutboxStore for DiskOutbox {
    fn append(&mut self, item: &Item) -> Result<(), StoreError> {
        let appended = self.queue().append(class(item.class), &item.encode())?;
        self.places.retain(|_, place| !appended.dropped.contains(place));
        self.places.extend(appended.ids.first().map(|place| (item.id, *place)));
        Ok(())
    }

    fn remove(&mut self, ids: &[ItemId]) -> Result<(), StoreError> {
        let places: Vec<u64> = ids.iter().filter_map(|id| self.places.get(id).copied()).collect();
        self.queue().remove(&places)?;
        self.places.retain(|id, _| !ids.contains(id));
        Ok(())
    }

    fn pending(&mut self) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        let mut after = 0;
        loop {
            let page = self.queue().pending(after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = last.id;
            let mut unreadable = Vec::new();
            for kept in &page {
                match Item::decode(&kept.bytes) {
                    Some(item) => {
                        self.places.insert(item.id, kept.id);
                        entries.push(Entry::from(&item));
                    }
                    None => unreadable.push(kept.id),
                }
            }
            self.queue().remove(&unreadable)?;
        }
        entries.sort_by_key(|entry| entry.id);
        Ok(entries)
    }

    fn load(&mut self, id: ItemId) -> Result<Option<Item>, StoreError> {
        let Some(place) = self.places.get(&id).copied() else { return Ok(None) };
        let kept = self.queue().pending(place.saturating_sub(1), 1)?;
        Ok(kept.first().filter(|kept| kept.id == place).and_then(|kept| Item::decode(&kept.bytes)))
    }
}

const fn class(class: Class) -> StoreClass {
    match class {
        Class::Audit => StoreClass::Audit,
        Class::Event => StoreClass::Event,
        Class::State => StoreClass::State,
        Class::Metric => StoreClass::Telemetry,
        Class::Log => StoreClass::Log,
    }
}
