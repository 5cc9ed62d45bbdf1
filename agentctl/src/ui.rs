//! The only place that prints: results to stdout, everything else to stderr.
//!
//! A closed pipe is not an error. Colour never carries the only meaning.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write},
    time::Duration,
};

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a piece of text means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Unexpected, but handled.
    Warning,
    /// Somebody must act.
    Bad,
    /// Less important.
    Quiet,
}

/// How a column lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Whether results are for people or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Text and tables.
    Human,
    /// One JSON document.
    Json,
}

/// Prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ui {
    form: Form,
    quiet: bool,
    stdout_color: bool,
    stderr_color: bool,
}

impl Ui {
    /// Prints in `form`, with colour as asked for.
    pub(crate) fn new(form: Form, quiet: bool, color: Color) -> Self {
        let wanted = |terminal: bool| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        };
        let (stdout_color, stderr_color) =
            (wanted(io::stdout().is_terminal()), wanted(io::stderr().is_terminal()));
        Self { form, quiet, stdout_color, stderr_color }
    }

    /// Whether the result is a JSON document.
    pub(crate) fn is_json(self) -> bool {
        self.form == Form::Json
    }

    /// A line of the result.
    pub(crate) fn line(self, text: impl Display) {
        write_line(io::stdout().lock(), &text);
    }

    /// The result as one JSON document with its schema number.
    pub(crate) fn json(self, body: &impl Serialize) {
        let document = agentd_wire::Versioned::new(body);
        match serde_json::to_string_pretty(&document) {
            Ok(text) => self.line(text),
            Err(error) => self.note(format!("the result cannot be written as JSON: {error}")),
        }
    }

    /// A result in the form asked for: `body` as JSON, or what `human` prints.
    pub(crate) fn result(self, body: &impl Serialize, human: impl FnOnce()) {
        if self.is_json() { self.json(body) } else { human() }
    }

    /// A table of the result: no borders, headings with units, `-` for nothing.
    pub(crate) fn table(self, headings: &[(&str, Align)], rows: Vec<Vec<String>>) {
        for line in render_table(headings, rows).lines() {
            self.line(line.trim_end());
        }
    }

    /// A remark, to stderr.
    pub(crate) fn note(self, text: impl Display) {
        if !self.quiet {
            write_line(io::stderr().lock(), &text);
        }
    }

    /// What failed, to stderr; with `--json` the error is the document on stdout.
    pub(crate) fn failure(self, failure: &Failure) {
        if self.is_json() {
            self.line(failure.json());
            return;
        }
        let mut stderr = io::stderr().lock();
        for (label, text) in failure.lines() {
            let tone = if label.starts_with("error") { Tone::Bad } else { Tone::Quiet };
            write_line(&mut stderr, &format!("{}{text}", paint(self.stderr_color, tone, label)));
        }
        if let Some(code) = failure.code_str() {
            write_line(&mut stderr, &format!("  [{code}]"));
        }
    }

    /// `text` for stdout, coloured by what it means.
    pub(crate) fn paint(self, tone: Tone, text: impl Display) -> String {
        paint(self.stdout_color, tone, text)
    }

    /// A progress bar over `bytes` on stderr; hidden when stderr is no terminal or nobody wants it.
    pub(crate) fn progress(self, bytes: u64, what: &str) -> ProgressBar {
        let style =
            ProgressStyle::with_template("{msg} {bar:30} {bytes} of {total_bytes} {bytes_per_sec} {eta}");
        self.bar(ProgressBar::new(bytes), style.ok(), what)
    }

    /// A spinner on stderr; hidden when stderr is no terminal or nobody wants it.
    pub(crate) fn spinner(self, what: &str) -> ProgressBar {
        let bar = self.bar(ProgressBar::new_spinner(), None, what);
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }

    fn bar(self, bar: ProgressBar, style: Option<ProgressStyle>, what: &str) -> ProgressBar {
        if self.quiet || self.is_json() || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = style.into_iter().fold(bar, ProgressBar::with_style);
        bar.with_message(what.to_owned())
    }
}

/// A table as text, for printing and for tests.
pub(crate) fn render_table(headings: &[(&str, Align)], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|(heading, _)| *heading));
    table.add_rows(rows);
    for (column, (_, align)) in table.column_iter_mut().zip(headings) {
        column.set_padding((0, 2));
        column.set_cell_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        });
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn paint(color: bool, tone: Tone, text: impl Display) -> String {
    let code = match tone {
        Tone::Good => 32,
        Tone::Warning => 33,
        Tone::Bad => 31,
        Tone::Quiet => 2,
    };
    if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
}

fn write_line(mut stream: impl Write, text: &impl Display) {
    // Nobody reads on: there is nothing left to say and nobody to say it to.
    drop(writeln!(stream, "{text}"));
}
