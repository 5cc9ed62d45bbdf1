//! What the person sees: numbered steps, what is going on now, and what came out.
//!
//! On a terminal a step that is going on shows a spinner and colour sets names apart; elsewhere only finished lines
//! appear, so that a log reads the same. The only module that prints.

use std::{
    env, fmt,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Width of the number and the name in front of each line.
const MARGIN: usize = 14;

/// Where the demo writes.
#[derive(Debug)]
pub(crate) struct Screen {
    colour: bool,
    number: usize,
    name: &'static str,
    spinner: Option<ProgressBar>,
}

/// How a text is set apart on a terminal that shows colours.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tone {
    Bold,
    Good,
    Bad,
    Faint,
}

impl Screen {
    /// The screen of this process's standard output.
    pub(crate) fn new() -> Self {
        let colour = io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        Self { colour, number: 0, name: "", spinner: None }
    }

    /// Writes a line as it is.
    pub(crate) fn line(&self, text: impl fmt::Display) {
        let write = || writeln!(io::stdout(), "{text}");
        // Nobody to read it is no reason to stop.
        drop(self.spinner.as_ref().map_or_else(write, |spinner| spinner.suspend(write)));
    }

    /// Writes a line below the current step.
    pub(crate) fn detail(&self, text: impl fmt::Display) {
        self.line(format!("{:MARGIN$}{text}", "").trim_end());
    }

    /// Begins the next step.
    pub(crate) fn step(&mut self, name: &'static str, doing: impl Into<String>) {
        self.clear();
        self.number += 1;
        self.name = name;
        let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
        if let Ok(style) = ProgressStyle::with_template("{prefix}{spinner} {msg}") {
            spinner.set_style(style);
        }
        spinner.set_prefix(self.margin());
        spinner.set_message(doing.into());
        spinner.enable_steady_tick(Duration::from_millis(100));
        self.spinner = Some(spinner);
    }

    /// Says what the current step is doing now.
    pub(crate) fn doing(&self, text: impl Into<String>) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(text.into());
        }
    }

    /// Ends the current step with what came out.
    pub(crate) fn done(&mut self, text: impl fmt::Display) {
        self.clear();
        self.line(format!("{}{text}", self.margin()));
    }

    /// The step that goes on or went on last, for messages: `5 fetch`.
    pub(crate) fn current(&self) -> String {
        format!("{} {}", self.number, self.name)
    }

    /// Ends what moves.
    pub(crate) fn clear(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }

    /// `text` in `tone` where colours are shown.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Bold => 1,
            Tone::Faint => 2,
            Tone::Good => 32,
            Tone::Bad => 31,
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn margin(&self) -> String {
        let number = self.paint(Tone::Faint, &format!("{:2}", self.number));
        let name = self.paint(Tone::Bold, &format!("{:<w$}", self.name, w = MARGIN - 3));
        format!("{number} {name}")
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn long_numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }
}
