//! A process that writes without end and is killed, again and again, on the real file system.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use agentd_types::{ByteCount, Digest};

use super::history::{Model, Step, VERSIONS, message, note, of_version, open};
use crate::{Class, IndexKind, Keep, Loaded, RealStorage, Store};

const FOLDER: &str = "AGENTD_STORE_KILL_TEST";
const ROUNDS: u64 = 25;

/// What the killed process had said.
#[derive(Default)]
struct Acknowledged {
    entries: BTreeMap<u64, Digest>,
    sent: BTreeSet<u64>,
    removed: BTreeSet<u64>,
    trust: u64,
    installed: BTreeSet<u64>,
}

impl Acknowledged {
    fn take(&mut self, line: &str) {
        let Some(line) = line.split("ack ").nth(1) else { return };
        let words: Vec<&str> = line.split(' ').collect();
        let number: u64 = words[1].parse().unwrap();
        match words[0] {
            "entry" => {
                self.entries.insert(number, words[2].parse().unwrap());
            }
            "sent" => {
                self.sent.insert(number);
            }
            // Also said before, so that a removal that was under way is not asked about.
            "removing" => {
                self.sent.remove(&number);
            }
            "removed" => {
                self.removed.insert(number);
            }
            "trust" => self.trust = number,
            "collecting" => self.installed.clear(),
            "installed" => {
                self.installed.insert(number);
            }
            other => panic!("{other}"),
        }
    }

    #[track_caller]
    fn check(&self, store: &Store, point: &str) {
        for (seq, hash) in &self.entries {
            assert_eq!(store.journal().hash_at(*seq), Some(*hash), "{point}: entry {seq}");
        }
        let waiting: BTreeSet<u64> =
            store.outbox().pending(0, usize::MAX).unwrap().into_iter().map(|item| item.id).collect();
        assert!(self.sent.is_subset(&waiting), "{point}: messages are lost");
        assert!(self.removed.is_disjoint(&waiting), "{point}: messages came back");
        match store.load_trust() {
            Loaded::Present(bytes) => {
                let number = u64::from_le_bytes(bytes.try_into().unwrap());
                assert!(
                    (self.trust..=self.trust + 1).contains(&number),
                    "{point}: trust {number} for {}",
                    self.trust
                );
            }
            other => assert_eq!((other, self.trust), (Loaded::Missing, 0), "{point}"),
        }
        let installed: BTreeSet<u64> = store.installed().iter().map(|bundle| bundle.version()).collect();
        assert!(self.installed.is_subset(&installed), "{point}: bundles are lost");
        for bundle in store.installed() {
            for (path, content) in &of_version(bundle.version()).files {
                assert_eq!(store.read_file(&bundle, path, ByteCount::mib(1)).unwrap(), *content, "{point}");
            }
        }
        assert_eq!(store.journal().verify().unwrap().damage, [], "{point}");
    }
}

/// Works for ever; says what is acknowledged.
fn work(dir: &Path) {
    let (store, _) = open(Arc::new(RealStorage::new()), dir, IndexKind::Sled).unwrap();
    let mut trust = match store.load_trust() {
        Loaded::Present(bytes) => u64::from_le_bytes(bytes.try_into().unwrap()),
        _ => 0,
    };
    let mut model = Model::default();
    for turn in 0_u64.. {
        store.record(note(turn)).unwrap();
        let head = store.journal().head();
        println!("ack entry {} {}", head.seq, head.hash);
        let ids = store.outbox().append(Class::Event, &message(7)).unwrap().ids;
        println!("ack sent {}", ids[0]);
        trust += 1;
        store.save_trust(&trust.to_le_bytes()).unwrap();
        println!("ack trust {trust}");
        if turn % 3 == 2 {
            let oldest = store.outbox().pending(0, 1).unwrap().remove(0).id;
            println!("ack removing {oldest}");
            store.outbox().remove(&[oldest]).unwrap();
            println!("ack removed {oldest}");
        }
        let version = turn % VERSIONS + 1;
        assert!(model.step(&store, Step::Fetch(version)) && model.step(&store, Step::Install(version)));
        println!("ack installed {version}");
        if turn % 7 == 6 {
            println!("ack collecting 0");
            store.collect(&Keep::default(), ByteCount(0)).unwrap();
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    // The same test is the process that is killed, when the folder is given.
    if let Some(dir) = std::env::var_os(FOLDER) {
        return work(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "tests::kill::a_killed_process_loses_nothing_that_it_acknowledged",
            ])
            .env(FOLDER, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // It is killed at whatever it does after so many lines.
        let enough = 2 + (round * 7_919) % 23;
        let mut said = 0;
        while said < enough {
            let line = lines.next().expect("it works until it is killed").unwrap();
            acknowledged.take(&line);
            said += u64::from(line.contains("ack "));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        lines.map_while(Result::ok).for_each(|line| acknowledged.take(&line));
        let (store, report) = open(Arc::new(RealStorage::new()), dir.path(), IndexKind::Sled).unwrap();
        let point = format!("kill {round}");
        assert_eq!((report.journal.damage, report.damaged), (vec![], vec![]), "{point}");
        acknowledged.check(&store, &point);
    }
    println!("points checked: {ROUNDS} (kill -9 on real files)");
}
