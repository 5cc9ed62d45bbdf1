//! The outbox against a model: whatever happens, in whatever order, nothing acknowledged to the caller is lost.

use std::collections::{BTreeMap, BTreeSet};

use agentd_link::{
    Channel, Class, Draft, Entry, Item, ItemId, MemoryOutbox, Outbox, OutboxError, OutboxLimits, OutboxStore,
    StoreError,
};
use agentd_types::UnixTime;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Put(Class, u8, usize),
    Send,
    Acknowledge(prop::sample::Index),
    Refuse(prop::sample::Index),
    LoseConnection,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop::sample::select(Class::ALL.to_vec());
    prop_oneof![
        6 => (class, 0_u8..4, 1_usize..400).prop_map(|(class, key, bytes)| Step::Put(class, key, bytes)),
        6 => Just(Step::Send),
        4 => any::<prop::sample::Index>().prop_map(Step::Acknowledge),
        1 => any::<prop::sample::Index>().prop_map(Step::Refuse),
        1 => Just(Step::LoseConnection),
        1 => Just(Step::Crash),
    ]
}

fn draft(class: Class, key: u8, payload: Vec<u8>) -> Draft {
    let channel = match class {
        Class::Audit => Channel::Audit,
        Class::Metric => Channel::Tele,
        Class::Event | Class::State | Class::Log => Channel::Event,
    };
    Draft {
        class,
        channel,
        key: (class == Class::State).then(|| format!("key-{key}")),
        payload: payload.into(),
    }
}

/// What the caller was promised.
#[derive(Default)]
struct Model {
    kept: BTreeMap<ItemId, (Class, u8)>,
    delivered: BTreeSet<ItemId>,
}

impl Model {
    /// Every item is delivered, still in the store, outdated by a newer state, or of a class that may be dropped.
    fn check(&self, store: &MemoryOutbox) {
        let held: BTreeSet<_> = store.clone().pending().unwrap().iter().map(|entry| entry.id).collect();
        for (id, (class, key)) in &self.kept {
            let safe = match class {
                Class::Audit => held.contains(id) || self.delivered.contains(id),
                Class::State => {
                    let newer = self.kept.iter().any(|(other, about)| other > id && *about == (*class, *key));
                    newer || held.contains(id) || self.delivered.contains(id)
                }
                Class::Event | Class::Metric | Class::Log => true,
            };
            assert!(safe, "{class:?} {id} is neither delivered nor kept");
        }
        for id in &self.delivered {
            // Whatever was sent, somebody put in.
            assert!(self.kept.contains_key(id), "{id} was delivered and never taken");
        }
    }
}

impl Model {
    /// What is over is over: after a crash the ids of items that are gone may be given anew.
    fn settle(&mut self, store: &MemoryOutbox) {
        let held: BTreeSet<_> = store.clone().pending().unwrap().iter().map(|entry| entry.id).collect();
        self.kept.retain(|id, _| held.contains(id));
        self.delivered.retain(|id| held.contains(id));
    }
}

const LIMITS: OutboxLimits = OutboxLimits { bytes: 4_000, items: 24 };

fn run(steps: Vec<Step>) {
    let store = MemoryOutbox::default();
    let mut outbox = Outbox::open(Box::new(store.clone()), LIMITS).unwrap();
    let mut model = Model::default();
    let mut on_the_way: Vec<Item> = Vec::new();
    for step in steps {
        match step {
            Step::Put(class, key, bytes) => {
                match outbox.put(draft(class, key, vec![key; bytes]), UnixTime(1)) {
                    Ok(id) => {
                        assert!(model.kept.insert(id, (class, key)).is_none(), "an id came twice");
                    }
                    Err(OutboxError::Full { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Send => on_the_way.extend(outbox.next_item().unwrap()),
            Step::Acknowledge(index) if !on_the_way.is_empty() => {
                let item = on_the_way.remove(index.index(on_the_way.len()));
                model.delivered.insert(item.id);
                outbox.acknowledged(item.id).unwrap();
            }
            Step::Refuse(index) if !on_the_way.is_empty() => {
                outbox.refused(on_the_way.remove(index.index(on_the_way.len())).id);
            }
            Step::Acknowledge(_) | Step::Refuse(_) => {}
            Step::LoseConnection => {
                outbox.connection_lost();
                // What was on its way may have arrived all the same.
                model.delivered.extend(on_the_way.drain(..).step_by(2).map(|item| item.id));
            }
            Step::Crash => {
                on_the_way.clear();
                let before = outbox.waiting();
                outbox = Outbox::open(Box::new(store.clone()), LIMITS).unwrap();
                let after = outbox.waiting();
                assert_eq!((before.items, before.bytes), (after.items, after.bytes));
                model.settle(&store);
            }
        }
        model.check(&store);
        let waiting = outbox.waiting();
        assert!(waiting.items <= LIMITS.items && waiting.bytes <= LIMITS.bytes, "{waiting:?}");
    }
    // In the end everything that is left gets through.
    outbox.connection_lost();
    while let Some(item) = outbox.next_item().unwrap() {
        model.delivered.insert(item.id);
        outbox.acknowledged(item.id).unwrap();
    }
    assert_eq!(outbox.waiting().items, 0);
    assert!(store.clone().pending().unwrap().is_empty());
    model.check(&store);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_happens_nothing_taken_is_lost(steps in prop::collection::vec(step(), 1..200)) {
        run(steps);
    }

    #[test]
    fn an_item_reads_back_and_arbitrary_bytes_are_none(payload in prop::collection::vec(any::<u8>(), 0..100), cut in 1_usize..200) {
        let item = Item {
            id: ItemId(7),
            class: Class::State,
            channel: Channel::Rep(agentd_wire::Section::Health),
            key: Some("health".into()),
            at: UnixTime(9),
            payload: payload.clone().into(),
        };
        let bytes = item.encode();
        prop_assert_eq!(Item::decode(&bytes), Some(item));
        prop_assert_eq!(Item::decode(&payload).is_some(), false);
        let head = bytes.len() - payload.len();
        prop_assert_eq!(Item::decode(&bytes[..head - cut.min(head)]), None);
    }
}

fn full_of(class: Class, count: usize) -> Outbox {
    let limits = OutboxLimits { bytes: 1 << 20, items: count };
    let mut outbox = Outbox::open(Box::new(MemoryOutbox::default()), limits).unwrap();
    for n in 0..count {
        outbox.put(draft(class, 0, vec![n as u8]), UnixTime(1)).unwrap();
    }
    outbox
}

fn left(mut outbox: Outbox) -> Vec<u8> {
    std::iter::from_fn(|| outbox.next_item().unwrap()).map(|item| item.payload[0]).collect()
}

#[test]
fn metrics_are_thinned_out_over_the_whole_time() {
    let mut outbox = full_of(Class::Metric, 16);
    for _ in 0..8 {
        outbox.put(draft(Class::Event, 0, vec![100]), UnixTime(1)).unwrap();
    }
    assert_eq!(outbox.waiting().dropped.metrics, 8);
    let metrics: Vec<_> = left(outbox).into_iter().filter(|n| *n != 100).collect();
    assert_eq!(metrics.len(), 8);
    assert!(metrics.windows(2).all(|pair| pair[1] - pair[0] <= 4), "a hole in time: {metrics:?}");
    assert!(metrics[0] <= 3 && metrics[7] >= 14, "an end is gone: {metrics:?}");
}

#[test]
fn audit_items_are_never_dropped_and_a_full_outbox_of_them_says_so() {
    let mut outbox = full_of(Class::Audit, 8);
    for class in Class::ALL {
        let error = outbox.put(draft(class, 0, vec![9]), UnixTime(1)).unwrap_err();
        assert!(matches!(error, OutboxError::Full { items: 8, .. }), "{class:?}: {error}");
    }
    assert_eq!(left(outbox), (0..8).collect::<Vec<_>>());
}

#[test]
fn logs_go_first_and_nothing_greater_goes_for_a_lesser_class() {
    let mut outbox = full_of(Class::Log, 4);
    outbox.put(draft(Class::Metric, 0, vec![50]), UnixTime(1)).unwrap();
    outbox.put(draft(Class::Event, 0, vec![60]), UnixTime(1)).unwrap();
    assert_eq!(outbox.waiting().dropped.logs, 2);
    assert_eq!(left(outbox), [60, 50, 2, 3], "the oldest logs are gone");
    let mut outbox = full_of(Class::Event, 4);
    assert!(outbox.put(draft(Class::Metric, 0, vec![50]), UnixTime(1)).is_err());
    outbox.put(draft(Class::Audit, 0, vec![70]), UnixTime(1)).unwrap();
    assert_eq!(left(outbox), [70, 1, 2, 3], "the oldest event makes room for an audit item");
}

#[test]
fn the_newest_state_of_each_key_is_sent_first() {
    let mut outbox = full_of(Class::Event, 0);
    let limits = OutboxLimits::default();
    let mut roomy = Outbox::open(Box::new(MemoryOutbox::default()), limits).unwrap();
    for (class, key, value) in [
        (Class::Event, 0, 1),
        (Class::State, 1, 2),
        (Class::State, 2, 3),
        (Class::State, 1, 4),
        (Class::Audit, 0, 5),
    ] {
        roomy.put(draft(class, key, vec![value]), UnixTime(1)).unwrap();
    }
    assert_eq!(roomy.waiting().dropped.outdated_states, 1);
    assert_eq!(left(roomy), [4, 3, 5, 1]);
    assert!(outbox.put(draft(Class::Event, 0, vec![1]), UnixTime(1)).is_err(), "room for none");
}

/// A store whose nth call fails.
#[derive(Debug)]
struct Failing {
    inner: MemoryOutbox,
    calls_left: u32,
}

impl Failing {
    fn call(&mut self) -> Result<(), StoreError> {
        self.calls_left = self.calls_left.checked_sub(1).ok_or("the disk is full")?;
        Ok(())
    }
}

impl OutboxStore for Failing {
    fn append(&mut self, item: &Item) -> Result<(), StoreError> {
        self.call()?;
        self.inner.append(item)
    }

    fn remove(&mut self, ids: &[ItemId]) -> Result<(), StoreError> {
        self.call()?;
        self.inner.remove(ids)
    }

    fn pending(&mut self) -> Result<Vec<Entry>, StoreError> {
        self.inner.pending()
    }

    fn load(&mut self, id: ItemId) -> Result<Option<Item>, StoreError> {
        self.call()?;
        self.inner.load(id)
    }
}

#[test]
fn a_disk_that_fails_at_any_call_loses_nothing_that_was_taken() {
    for calls_left in 0..60 {
        let inner = MemoryOutbox::default();
        let store = Failing { inner: inner.clone(), calls_left };
        let mut outbox = Outbox::open(Box::new(store), LIMITS).unwrap();
        let mut taken = BTreeSet::new();
        let mut acknowledged = BTreeSet::new();
        for n in 0..20_u8 {
            taken.extend(outbox.put(draft(Class::Audit, 0, vec![n]), UnixTime(1)));
            if n % 3 == 0
                && let Ok(Some(item)) = outbox.next_item()
            {
                acknowledged.insert(item.id);
                // A failure here means at worst that the item is sent again.
                drop(outbox.acknowledged(item.id));
            }
        }
        let held: BTreeSet<_> = inner.clone().pending().unwrap().iter().map(|entry| entry.id).collect();
        for id in taken.difference(&acknowledged) {
            assert!(held.contains(id), "{id} is lost after {calls_left} calls");
        }
    }
}
