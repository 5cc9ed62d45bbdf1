//! What a panic said, and where it was.

use std::{
    any::Any,
    panic::{self, PanicHookInfo},
    sync::{Mutex, PoisonError},
};

/// Where the last panic of any thread was.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Has every panic from here on leave its place behind, and still speak on standard error.
pub(super) fn remember() {
    let speak = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        *PLACE.lock().unwrap_or_else(PoisonError::into_inner) = place(panic);
        speak(panic);
    }));
}

/// What a caught panic said and where it was, for an error's reason.
pub(super) fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
    let text = text.unwrap_or("without a word");
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
