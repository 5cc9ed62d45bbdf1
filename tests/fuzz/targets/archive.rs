//! Archives of bundles.
//!
//! What is opened and whole is, written again, the same bytes; everything else is refused with a code.

#![no_main]

use std::io::{Cursor, Error};

use agentd_bundle::archive::{Archive, ArchiveError, check_content, write_archive};
use agentd_types::Coded as _;
use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8]) -> Result<Archive<Cursor<&[u8]>>, ArchiveError> {
    let mut archive = Archive::open(Cursor::new(bytes))?;
    let manifest = archive.document().manifest().clone();
    check_content(&manifest, |digest| archive.blob(digest))?;
    Ok(archive)
}

fuzz_target!(|data: &[u8]| {
    match read(data) {
        Ok(mut archive) => {
            let document = archive.document().clone();
            // An envelope may have been written in another spelling of JSON, so its own bytes are not compared.
            let again = write_archive(Vec::new(), &document, |digest| archive.blob(digest).map_err(Error::other));
            if !document.is_signed() {
                assert_eq!(again.unwrap(), data);
            }
        }
        Err(error) => {
            let code = error.code();
            assert!(code.as_str().starts_with("archive.") || code.as_str().starts_with("verify."), "{code}");
        }
    }
});
