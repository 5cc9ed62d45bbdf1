//! To come.

use super::site::{Found, Site};

pub(crate) fn import(_: &mut Site<'_, '_, '_>) -> Found {
    Ok(None)
}
