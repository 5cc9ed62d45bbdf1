//! What a panic said, and where it was.

use std::{
    any::Any,
    io::{self, Write as _},
    panic::{self, PanicHookInfo},
    sync::{Mutex, PoisonError},
};

/// What a panic said that carries no text.
const WORDLESS: &str = "without a word";

/// Where the last panic of any thread was.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Has every panic from here on leave its place behind, and speak on standard error without the folders of the
/// machine that built this program.
pub(super) fn remember() {
    panic::set_hook(Box::new(|panic| {
        let place = place(panic);
        let text = panic.payload_as_str().unwrap_or(WORDLESS);
        writeln!(io::stderr(), "panicked at {}: {text}", place.as_deref().unwrap_or("an unknown place")).ok();
        *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }));
}

/// What a caught panic said and where it was, for an error's reason.
pub(super) fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
    let text = text.unwrap_or(WORDLESS);
    match PLACE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(place) => format!("it panicked: {text} ({place})"),
        None => format!("it panicked: {text}"),
    }
}

/// The file, from its crate on, and the line.
fn place(panic: &PanicHookInfo<'_>) -> Option<String> {
    let location = panic.location()?;
    Some(format!("{}:{}", from_crate(location.file()), location.line()))
}

/// A source file without the folders of the machine that built it.
fn from_crate(file: &str) -> &str {
    let inside = file.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/'));
    inside.map_or(file, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_starts_at_its_crate() {
        assert_eq!(from_crate("/x/registry/src/index-1/tract-1/src/a.rs"), "tract-1/src/a.rs");
        assert_eq!(from_crate("daemon/worker/src/main.rs"), "daemon/worker/src/main.rs");
    }
}
