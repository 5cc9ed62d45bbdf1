//! A model's bytes, sealed so that neither side can change them any more.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

/// A model's bytes in memory that can be handed to a worker without a copy; nobody can change them any more.
#[derive(Debug)]
pub struct ModelFile {
    file: File,
    len: u64,
}

impl ModelFile {
    /// A model file that holds `bytes`.
    ///
    /// # Errors
    /// When the system has no memory or descriptor for it.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        Self::write(bytes.len() as u64, |file| file.write_all(bytes))
    }

    /// A model file of exactly `len` bytes, which `fill` writes piece by piece.
    ///
    /// # Errors
    /// Those of `fill`; when it writes fewer or more bytes; when the system has no memory or descriptor.
    pub fn write(len: u64, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<Self> {
        let file = File::from(memfd_create("agentd-model", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        ftruncate(&file, len)?;
        fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
        let mut writer = BufWriter::with_capacity(1 << 16, Counted { file: &file, left: len });
        fill(&mut writer)?;
        writer.flush()?;
        if writer.get_ref().left > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the model is shorter than its length"));
        }
        drop(writer);
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SEAL)?;
        Ok(Self { file, len })
    }

    /// Its length in bytes.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl AsFd for ModelFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

struct Counted<'a> {
    file: &'a File,
    left: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| {
            io::Error::new(io::ErrorKind::FileTooLarge, "the model is longer than its length")
        })?;
        self.file.write_all(bytes)?;
        self.left = left;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_model_file_holds_what_was_written_and_cannot_be_changed() {
        let model = ModelFile::from_bytes(b"model").unwrap();
        let mut read = [0; 5];
        model.file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!((&read, model.len()), (b"model", 5));
        assert!(model.file.write_at(b"x", 0).is_err());
        assert!(model.file.set_len(2).is_err());
        assert!(model.file.set_len(9).is_err());
    }

    #[test]
    fn a_model_file_is_exactly_as_long_as_promised() {
        let kind =
            |len, bytes: &[u8]| ModelFile::write(len, |file| file.write_all(bytes)).map_err(|e| e.kind());
        assert_eq!(kind(3, b"ab").unwrap_err(), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(3, b"abcd").unwrap_err(), io::ErrorKind::FileTooLarge);
        assert!(kind(0, b"").is_ok());
    }
}
