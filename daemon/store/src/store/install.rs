//! Chunks in, installed bundles out.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    sync::{Arc, PoisonError},
};

use agentd_bundle::VerifiedBundle;
use agentd_types::{ByteCount, Digest, ModelName};
use agentd_wire::{Chunk, FileEntry, Manifest, What};

use super::{Store, lock};
use crate::{
    BlobError, DiskError, InstallError, InstalledBundle, Put, ReadError,
    installed::{self, EnvelopeError},
};

impl Store {
    /// The distinct chunks of `manifest` that are not held, in the order of its files. Chunks that were put and not
    /// committed count as missing.
    ///
    /// # Errors
    /// When the disk cannot be asked.
    pub fn missing_chunks(&self, manifest: &Manifest) -> Result<Vec<Chunk>, DiskError> {
        let held = self.blobs.held()?;
        let mut seen = BTreeSet::new();
        Ok(manifest
            .chunks()
            .filter(|chunk| held.get(&chunk.1) != Some(&chunk.0) && seen.insert(chunk.1))
            .collect())
    }

    /// Writes a chunk; it is held after the next [`Store::commit_chunks`]. The ballast is not for downloads: ask
    /// [`Store::fits`] first.
    ///
    /// # Errors
    /// When `bytes` are not `chunk`, or the disk refuses.
    pub fn put_chunk(&self, chunk: Digest, bytes: &[u8]) -> Result<Put, BlobError> {
        self.blobs.put(chunk, bytes)
    }

    /// Returns when every chunk put so far survives a power cut.
    ///
    /// # Errors
    /// When the disk refuses: those that waited must be put again.
    pub fn commit_chunks(&self) -> Result<(), BlobError> {
        self.blobs.commit()
    }

    /// Installs a bundle of which every chunk was put: each whole file is checked, the envelope kept, the install
    /// journalled. Installing again what is installed returns it and writes nothing.
    ///
    /// # Errors
    /// When anything is missing or not what the manifest says, or the disk refuses; it is then not installed.
    pub fn install(&self, bundle: &VerifiedBundle) -> Result<InstalledBundle, InstallError> {
        self.install_proved(Arc::new(bundle.manifest().clone()), bundle.digest(), bundle.envelope())
    }

    pub(crate) fn install_proved(
        &self,
        manifest: Arc<Manifest>,
        digest: Digest,
        envelope: &[u8],
    ) -> Result<InstalledBundle, InstallError> {
        let _one = lock(&self.changing);
        if let Some(installed) = self.installed_bundle(&digest) {
            return Ok(installed);
        }
        self.blobs.commit()?;
        self.check_files(&manifest)?;
        match self.envelopes.keep(&digest, envelope) {
            Err(error) if error.is_full() && self.ballast.release() => self.envelopes.keep(&digest, envelope),
            other => other,
        }?;
        // Seen before it is journalled, so that the index finds what it is made of when the event comes by.
        let (model, version) = (manifest.name.clone(), manifest.version);
        self.show(InstalledBundle::new(manifest.clone(), digest, agentd_types::UnixTime(0), 0));
        let recorded = self.record(What::Installed { model, version, bundle: digest });
        let event = recorded.inspect_err(|_| self.hide(&digest))?;
        let fact = self.with_facts(|facts| facts.installed.get(&digest).map(|fact| (fact.at, fact.seq)));
        let (at, seq) = fact.unwrap_or((event.at, event.seq));
        let installed = InstalledBundle::new(manifest, digest, at, seq);
        self.show(installed.clone());
        Ok(installed)
    }

    fn check_files(&self, manifest: &Manifest) -> Result<(), InstallError> {
        let missing = self.missing_chunks(manifest)?;
        if !missing.is_empty() {
            let bytes: ByteCount = missing.iter().map(|chunk| ByteCount(chunk.0)).sum();
            return Err(InstallError::Missing { count: missing.len(), bytes });
        }
        for file in &manifest.files {
            installed::copy(&self.blobs, file, &mut io::sink())
                .map_err(|source| InstallError::File { file: file.path.clone(), source })?;
        }
        Ok(())
    }

    fn show(&self, bundle: InstalledBundle) {
        let mut installed = self.live.installed.write().unwrap_or_else(PoisonError::into_inner);
        installed.insert(bundle.digest(), bundle);
    }

    pub(super) fn hide(&self, bundle: &Digest) {
        self.live.installed.write().unwrap_or_else(PoisonError::into_inner).remove(bundle);
    }

    /// Every bundle that is whole on this device, by digest.
    pub fn installed(&self) -> Vec<InstalledBundle> {
        let installed = self.live.installed.read().unwrap_or_else(PoisonError::into_inner);
        installed.values().filter(|bundle| bundle.installed_seq() > 0).cloned().collect()
    }

    /// Every version of a model that is whole on this device, by digest.
    pub fn installed_of(&self, model: &ModelName) -> Vec<InstalledBundle> {
        let installed = self.live.installed.read().unwrap_or_else(PoisonError::into_inner);
        let held = installed.values().filter(|bundle| bundle.installed_seq() > 0 && bundle.model() == model);
        held.cloned().collect()
    }

    /// The installed bundle with this digest.
    pub fn installed_bundle(&self, bundle: &Digest) -> Option<InstalledBundle> {
        let installed = self.live.installed.read().unwrap_or_else(PoisonError::into_inner);
        installed.get(bundle).filter(|bundle| bundle.installed_seq() > 0).cloned()
    }

    /// The envelope as it came, to pass it on or prove it again. `None` when it is damaged or gone.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn envelope(&self, bundle: &InstalledBundle) -> Result<Option<Vec<u8>>, DiskError> {
        match self.envelopes.read(&bundle.digest()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(EnvelopeError::Disk(error)) => Err(error),
            Err(EnvelopeError::Missing | EnvelopeError::Other | EnvelopeError::Form(_)) => Ok(None),
        }
    }

    /// Reads a file of at most `limit` bytes, checked against its digest.
    ///
    /// # Errors
    /// When the bundle has no such file, it is longer, damaged, or the disk refuses.
    pub fn read_file(
        &self,
        bundle: &InstalledBundle,
        path: &str,
        limit: ByteCount,
    ) -> Result<Vec<u8>, ReadError> {
        let file = file_of(bundle, path)?;
        let size = ByteCount(file.size);
        if size > limit {
            return Err(ReadError::TooLong { size, limit });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(file.size).unwrap_or(0));
        installed::copy(&self.blobs, file, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes a file to `sink` a chunk at a time, each checked. What was written counts only when this returns `Ok`,
    /// since the digest of the whole is checked last.
    ///
    /// # Errors
    /// When the bundle has no such file, it is damaged, or the disk or `sink` refuses.
    pub fn copy_file(
        &self,
        bundle: &InstalledBundle,
        path: &str,
        sink: &mut dyn Write,
    ) -> Result<(), ReadError> {
        installed::copy(&self.blobs, file_of(bundle, path)?, sink)
    }
}

fn file_of<'a>(bundle: &'a InstalledBundle, path: &str) -> Result<&'a FileEntry, ReadError> {
    let none = || ReadError::NoFile { path: path.chars().take(255).collect() };
    bundle.manifest().file(path).ok_or_else(none)
}
