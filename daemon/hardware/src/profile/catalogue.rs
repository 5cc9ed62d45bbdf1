//! The profiles that come with the program and those that a folder adds.
//!
//! In: embedded TOML, and `*.toml` files of a folder. Out: the profile that fits a machine most specifically. A file
//! that is damaged or too large is reported and left out; the others count.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use agentd_types::{Code, Coded};

use super::{FirmwareProfile, ProfileError};
use crate::Inventory;

/// The profiles in the program, as they lie in `firmware-profiles/`.
const SHIPPED: [&str; 6] = [
    include_str!("../../../../firmware-profiles/generic-x86_64.toml"),
    include_str!("../../../../firmware-profiles/generic-aarch64.toml"),
    include_str!("../../../../firmware-profiles/raspberry-pi-5.toml"),
    include_str!("../../../../firmware-profiles/jetson-orin-nano.toml"),
    include_str!("../../../../firmware-profiles/intel-nuc.toml"),
    include_str!("../../../../firmware-profiles/amd-embedded.toml"),
];

const MAX_FILE: u64 = 64 << 10;
const MAX_FILES: usize = 256;

/// All profiles, from the most general source to the most particular.
#[derive(Clone, Debug)]
pub struct FirmwareProfiles(Vec<FirmwareProfile>);

/// A file of a folder that adds no profile.
#[derive(Debug, thiserror::Error)]
pub enum FolderProblem {
    /// The folder or file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is too large to be a profile.
    #[error("`{path}` is larger than 64 KiB")]
    Size {
        /// The file.
        path: PathBuf,
    },
    /// There are more files than are read.
    #[error("`{path}` holds more than 256 profiles; the rest is not read")]
    Many {
        /// The folder.
        path: PathBuf,
    },
    /// The file holds no profile.
    #[error("`{path}`")]
    Profile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ProfileError,
    },
}

impl Coded for FolderProblem {
    fn code(&self) -> Code {
        match self {
            Self::Read { .. } => Code::new("firmware.read"),
            Self::Size { .. } | Self::Many { .. } => Code::new("firmware.size"),
            Self::Profile { source, .. } => source.code(),
        }
    }
}

impl FirmwareProfiles {
    /// The profiles that come with the program.
    pub fn shipped() -> Self {
        // A test holds that every one of them can be read.
        Self(SHIPPED.iter().filter_map(|text| text.parse().ok()).collect())
    }

    /// Adds the `*.toml` files of `folder`, in the order of their names; a profile takes the place of an earlier one of
    /// the same name, and wins against one that fits equally well. A folder that does not exist adds nothing.
    ///
    /// Returns what could not be read.
    pub fn add_folder(&mut self, folder: &Path) -> Vec<FolderProblem> {
        let read = |source| FolderProblem::Read { path: folder.to_owned(), source };
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => return vec![read(error)],
        };
        let mut problems = Vec::new();
        let mut paths: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .collect();
        paths.sort_unstable();
        if paths.len() > MAX_FILES {
            problems.push(FolderProblem::Many { path: folder.to_owned() });
            paths.truncate(MAX_FILES);
        }
        for path in paths {
            match read_profile(&path) {
                Ok(profile) => {
                    self.0.retain(|other| other.name != profile.name);
                    self.0.push(profile);
                }
                Err(problem) => problems.push(problem),
            }
        }
        problems
    }

    /// The profile that fits `machine` most specifically: by the number of facts that match, then by how much their
    /// patterns say. [`FirmwareProfile::unknown`] when none fits.
    pub fn best(&self, machine: &Inventory) -> FirmwareProfile {
        let fitting = self.0.iter().filter_map(|profile| Some((profile.fit(machine)?, profile)));
        // `max_by_key` takes the last of equals: what a folder added later.
        fitting
            .max_by_key(|(fit, _)| *fit)
            .map_or_else(FirmwareProfile::unknown, |(_, profile)| profile.clone())
    }

    /// Every profile.
    pub fn iter(&self) -> impl Iterator<Item = &FirmwareProfile> {
        self.0.iter()
    }
}

fn read_profile(path: &Path) -> Result<FirmwareProfile, FolderProblem> {
    let read = |source| FolderProblem::Read { path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).map_err(read)?.take(MAX_FILE + 1).read_to_string(&mut text).map_err(read)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(FolderProblem::Size { path: path.to_owned() });
    }
    text.parse().map_err(|source| FolderProblem::Profile { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use agentd_types::ByteCount;

    use super::*;
    use crate::{Root, root::tree};

    /// A tree as the board's kernel shows it.
    fn board(name: &str) -> Vec<(&'static str, &'static str)> {
        let aarch64 = ("proc/sys/kernel/arch", "aarch64\n");
        let x86_64 = ("proc/sys/kernel/arch", "x86_64\n");
        match name {
            "Raspberry Pi 5" => vec![
                aarch64,
                ("proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0"),
                ("proc/device-tree/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0"),
            ],
            "Compute Module 5" => vec![
                aarch64,
                ("proc/device-tree/model", "Raspberry Pi Compute Module 5 Rev 1.0\0"),
                ("proc/device-tree/compatible", "raspberrypi,5-compute-module\0brcm,bcm2712\0"),
            ],
            "Orin Nano kit" => vec![
                aarch64,
                (
                    "proc/device-tree/model",
                    "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
                ),
                (
                    "proc/device-tree/compatible",
                    "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
                ),
            ],
            "Orin AGX" => vec![
                aarch64,
                ("proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0"),
                ("proc/device-tree/compatible", "nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0"),
            ],
            "NUC 8" => vec![
                x86_64,
                ("sys/class/dmi/id/sys_vendor", "Intel(R) Client Systems\n"),
                ("sys/class/dmi/id/product_name", "NUC8i7BEH\n"),
                ("sys/class/dmi/id/board_vendor", "Intel Corporation\n"),
                ("sys/class/dmi/id/board_name", "NUC8BEB\n"),
            ],
            "NUC 7" => vec![
                x86_64,
                ("sys/class/dmi/id/sys_vendor", "\n"),
                ("sys/class/dmi/id/board_vendor", "Intel Corporation\n"),
                ("sys/class/dmi/id/board_name", "NUC7i5BNB\n"),
            ],
            "ASUS NUC 14" => vec![
                x86_64,
                ("sys/class/dmi/id/sys_vendor", "ASUSTeK COMPUTER INC.\n"),
                ("sys/class/dmi/id/product_name", "NUC14RVH-B\n"),
                ("sys/class/dmi/id/board_name", "NUC14RVB\n"),
            ],
            "Ryzen Embedded" => vec![
                x86_64,
                ("sys/class/dmi/id/sys_vendor", "To Be Filled By O.E.M.\n"),
                (
                    "proc/cpuinfo",
                    "processor : 0\nmodel name : AMD Ryzen Embedded V1605B with Radeon Vega Gfx\n",
                ),
            ],
            "APU2" => vec![
                x86_64,
                ("sys/class/dmi/id/sys_vendor", "PC Engines\n"),
                ("sys/class/dmi/id/product_name", "apu2\n"),
                ("proc/cpuinfo", "processor : 0\nmodel name : AMD GX-412TC SOC\n"),
            ],
            "PC" => vec![x86_64, ("proc/cpuinfo", "processor : 0\nmodel name : AMD EPYC 7763\n")],
            "ARM server" => vec![aarch64],
            _ => vec![("proc/sys/kernel/arch", "riscv64\n")],
        }
    }

    fn read(files: &[(&str, &str)]) -> Inventory {
        let (_folder, root) = tree(files);
        Inventory::read(&root, None, Vec::new())
    }

    #[test]
    fn every_shipped_profile_can_be_read_says_what_it_is_for_and_matches_something() {
        for text in SHIPPED {
            let profile: FirmwareProfile = text.parse().unwrap();
            assert!(!profile.description.is_empty() && !profile.matches.is_empty(), "{}", profile.name);
        }
        let names: Vec<_> = FirmwareProfiles::shipped().iter().map(|profile| profile.name.clone()).collect();
        let want = [
            "generic-x86_64",
            "generic-aarch64",
            "raspberry-pi-5",
            "jetson-orin-nano",
            "intel-nuc",
            "amd-embedded",
        ];
        assert_eq!(names, want);
    }

    #[test]
    fn every_board_gets_its_profile() {
        let profiles = FirmwareProfiles::shipped();
        for (name, want) in [
            ("Raspberry Pi 5", "raspberry-pi-5"),
            ("Compute Module 5", "raspberry-pi-5"),
            ("Orin Nano kit", "jetson-orin-nano"),
            ("Orin AGX", "generic-aarch64"),
            ("NUC 8", "intel-nuc"),
            ("NUC 7", "intel-nuc"),
            ("ASUS NUC 14", "intel-nuc"),
            ("Ryzen Embedded", "amd-embedded"),
            ("APU2", "amd-embedded"),
            ("PC", "generic-x86_64"),
            ("ARM server", "generic-aarch64"),
            ("something else", "unknown"),
        ] {
            assert_eq!(profiles.best(&read(&board(name))).name, want, "{name}");
        }
    }

    #[test]
    fn a_folder_adds_more_specific_profiles_and_damaged_files_are_reported() {
        let (folder, _) = tree(&[
            (
                "10-cell.toml",
                "name = 'cell'\n[[match]]\ncompatible = 'raspberrypi,5-model-b'\nmodel = '* Rev 1.0'\n",
            ),
            (
                "20-pi.toml",
                "name = 'generic-aarch64'\n[[match]]\narch = 'aarch64'\n[memory]\nkeep_free = '2GiB'\n",
            ),
            ("30-bad.toml", "name = 3"),
            ("40-big.toml", &"#".repeat(70_000)),
            ("readme.txt", "not a profile"),
        ]);
        let mut profiles = FirmwareProfiles::shipped();
        let problems = profiles.add_folder(folder.path());
        let codes: Vec<_> = problems.iter().map(|problem| problem.code().to_string()).collect();
        assert_eq!(codes, ["firmware.form", "firmware.size"]);
        assert_eq!(profiles.best(&read(&board("Raspberry Pi 5"))).name, "cell");
        let server = read(&board("ARM server"));
        assert_eq!(profiles.best(&server).keep_free(&server.memory), ByteCount(2 << 30));
        assert_eq!(profiles.iter().count(), 7);
        assert!(profiles.add_folder(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn this_machine_gets_a_profile() {
        let machine = Inventory::read(&Root::system(), None, Vec::new());
        let profile = FirmwareProfiles::shipped().best(&machine);
        assert!(
            profile.threads(&machine.cpu) >= 1 && profile.threads(&machine.cpu) <= machine.cpu.usable_cores
        );
    }
}
