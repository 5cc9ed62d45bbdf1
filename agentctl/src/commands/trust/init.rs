//! `trust init`: the first trust document of a fleet.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use agentd_bundle::{
    PublicKey,
    author::{RolePlan, TrustPlan, draft_trust},
};
use agentd_types::FleetId;

use super::{
    super::key::files::{Signers, read_public},
    edit::{self, Written},
};
use crate::{
    context::Context,
    failure::{Exit, Failure},
};

const EXAMPLE: &str = "Example: three people, two of whom must agree on trust; one key for the fleet; one for models:\n  \
    agentctl key generate root-1 --ask     (and root-2, root-3, fleet-1, release-1)\n  \
    agentctl trust init --fleet plant \\\n    \
      --root root-1.pub --root root-2.pub --root root-3.pub --root-threshold 2 \\\n    \
      --fleet-key fleet-1.pub --release 'vision/*=release-1.pub' --key root-1.pem\n  \
    agentctl trust sign trust-1.json --key root-2.pem";

/// Options of `trust init`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Args {
    /// The fleet's id.
    #[arg(long, value_name = "ID")]
    fleet: FleetId,
    /// A public key of the root role, which signs trust documents; once for each key.
    #[arg(long, value_name = "FILE.pub", required = true)]
    root: Vec<PathBuf>,
    /// How many root keys must sign; more than half of them when not said.
    #[arg(long, value_name = "N")]
    root_threshold: Option<u64>,
    /// A public key of the fleet role, which signs catalogs, groups and desired states; once for each key.
    #[arg(long, value_name = "FILE.pub", required = true)]
    fleet_key: Vec<PathBuf>,
    /// How many fleet keys must sign.
    #[arg(long, value_name = "N", default_value_t = 1)]
    fleet_threshold: u64,
    /// Who signs which models: `GLOB[,GLOB]=FILE.pub[,FILE.pub]`, with `N:` before the files when N must sign. The first
    /// that matches a name decides.
    #[arg(long, value_name = "GLOBS=KEYS")]
    release: Vec<Release>,
    /// For how many days the document may be used.
    #[arg(long, value_name = "DAYS", default_value_t = 365)]
    days: u64,
    /// Where to write.
    #[arg(long, short, value_name = "FILE", default_value = "trust-1.json")]
    output: PathBuf,
    #[command(flatten)]
    signers: Signers,
}

/// A release role as it is written on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Release {
    globs: Vec<String>,
    threshold: u64,
    files: Vec<PathBuf>,
}

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form =
            || "write for example 'vision/*=release-1.pub' or 'vision/*,audio/*=2:a.pub,b.pub'".to_owned();
        let (globs, keys) = text.split_once('=').ok_or_else(form)?;
        let (threshold, files) = match keys.split_once(':') {
            Some((number, files)) if number.bytes().all(|b| b.is_ascii_digit()) => {
                (number.parse().map_err(|_| form())?, files)
            }
            _ => (1, keys),
        };
        let globs: Vec<_> = globs.split(',').map(str::to_owned).collect();
        let files: Vec<_> = files.split(',').map(PathBuf::from).collect();
        if globs.iter().any(String::is_empty) || files.iter().any(|file| file.as_os_str().is_empty()) {
            return Err(form());
        }
        Ok(Self { globs, threshold, files })
    }
}

pub(crate) fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let root = read_all(&args.root)?;
    let majority = root.len() as u64 / 2 + 1;
    let releases = args.release.iter().map(|release| {
        let plan = RolePlan { keys: read_all(&release.files)?, threshold: release.threshold };
        Ok((release.globs.clone(), plan))
    });
    let plan = TrustPlan {
        created: context.now(),
        expires: context.now().plus(args.days.saturating_mul(86_400)),
        root: RolePlan { keys: root, threshold: args.root_threshold.unwrap_or(majority) },
        fleet_role: RolePlan { keys: read_all(&args.fleet_key)?, threshold: args.fleet_threshold },
        releases: releases.collect::<Result<_, Failure>>()?,
        fleet: args.fleet,
    };
    let envelope = draft_trust(&plan.document()).map_err(|reject| {
        Failure::new("cannot make the trust document").coded(&reject).exit_with(Exit::Usage)
    })?;
    let written = Written { envelope, before: None, output: args.output, replace: false };
    edit::finish(written, &args.signers, context)
}

fn read_all(files: &[PathBuf]) -> Result<Vec<PublicKey>, Failure> {
    files.iter().map(|file| read_public(Path::new(file))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_role_reads_as_globs_and_keys() {
        let check = |text: &str, globs: &[&str], threshold: u64, files: &[&str]| {
            let expected = Release {
                globs: globs.iter().map(|glob| (*glob).to_owned()).collect(),
                threshold,
                files: files.iter().map(PathBuf::from).collect(),
            };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        };
        check("vision/*=a.pub", &["vision/*"], 1, &["a.pub"]);
        check("a/*,b/*=2:x.pub,y.pub", &["a/*", "b/*"], 2, &["x.pub", "y.pub"]);
        check("*=c:/keys/a.pub", &["*"], 1, &["c:/keys/a.pub"]);
        for bad in ["", "vision/*", "=a.pub", "vision/*=", "a,,b=x.pub", "a=99999999999999999999:x.pub"] {
            assert!(bad.parse::<Release>().is_err(), "{bad}");
        }
    }
}
