//! Where the log goes: the journal of systemd with its fields, or readable lines on stderr.

use std::{fmt::Write as _, io::Write as _, time::Instant};

use agentd_config::LogLevel;
use log::{Level, LevelFilter, Log, Metadata, Record, kv};
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// Installs the log of this process; the second call does nothing.
pub(crate) fn install(level: LogLevel) {
    let filter = match level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
        LogLevel::Trace => LevelFilter::Trace,
    };
    let journal = connected_to_journal().then(JournalLog::new).and_then(Result::ok);
    let installed = match journal {
        Some(journal) => journal.with_syslog_identifier("agentd".to_owned()).install().is_ok(),
        None => log::set_boxed_logger(Box::new(StderrLog { start: Instant::now() })).is_ok(),
    };
    if installed {
        log::set_max_level(filter);
    }
}

/// Lines such as `   1.204 info  Model placed  event=place.chosen model=demo/digits`.
#[derive(Debug)]
struct StderrLog {
    start: Instant,
}

impl Log for StderrLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("agentd") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = record.level().as_str().to_ascii_lowercase();
        let mut line = format!("{:8.3} {level:<5} {}", self.start.elapsed().as_secs_f64(), record.args());
        // Formatting into a string cannot fail.
        drop(record.key_values().visit(&mut Fields(&mut line)));
        line.push('\n');
        // Nobody reads the log any more: there is nobody to tell.
        drop(std::io::stderr().lock().write_all(line.as_bytes()));
    }

    fn flush(&self) {}
}

struct Fields<'a>(&'a mut String);

impl<'kvs> kv::VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        write!(self.0, "  {key}={value}").map_err(kv::Error::from)
    }
}
