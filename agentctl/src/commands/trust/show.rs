//! `trust show`: keys, roles and revocations of a trust document, and who signed it.

use std::path::PathBuf;

use agentd_types::{KeyId, UnixTime, human_duration};
use agentd_wire::Trust;
use serde::Serialize;

use super::{super::key::files::KeyNames, TrustFile, signed_line};
use crate::{
    context::Context,
    failure::{Exit, Failure},
    ui::{Align, render_table},
};

/// Options of `trust show`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  agentctl trust show trust-2.json\n\nNames come from the .pub files beside the document. \
    Exits 1 when too few of its own root keys signed or it has expired."
)]
pub(crate) struct Args {
    /// The trust document.
    #[arg(value_name = "TRUST")]
    trust: PathBuf,
}

/// A trust document with the state of its signatures.
#[derive(Debug, Serialize)]
struct Report<'a> {
    document: &'a Trust,
    sha256: agentd_types::Digest,
    complete: bool,
    expired: bool,
    signed_by: Vec<KeyId>,
    signatures: String,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let file = TrustFile::read(&args.trust)?;
    let names = KeyNames::beside(&args.trust);
    let signatures = file.signatures()?;
    let report = Report {
        document: file.root.document(),
        sha256: file.envelope.digest(),
        complete: signatures.is_met(),
        expired: context.now() > file.root.document().expires,
        signatures: signed_line(&signatures, &names),
        signed_by: signatures.signed,
    };
    let ui = context.ui();
    ui.result(&report, || {
        for line in report.text(&names, context.now()).lines() {
            ui.line(line);
        }
    });
    Ok(if report.complete && !report.expired { Exit::Done } else { Exit::No })
}

impl Report<'_> {
    fn text(&self, names: &KeyNames, now: UnixTime) -> String {
        let Trust {
            version,
            fleet,
            created,
            expires,
            roles,
            revoked_keys,
            revoked_bundles,
            min_versions,
            ..
        } = self.document;
        let left = if self.expired {
            "expired".to_owned()
        } else {
            format!("in {}", human_duration(expires.since(now)))
        };
        let mut text =
            format!("trust {version} of fleet {fleet}   made {created}   expires {expires} ({left})\n");
        text.push_str(&format!("signed  {}\n\n", self.signatures));
        let row = |role: String, keyids: &[KeyId], threshold: u64| {
            vec![role, format!("{threshold} of {}", keyids.len()), names.list(keyids)]
        };
        let mut rows = vec![
            row("root".into(), &roles.root.keyids, roles.root.threshold),
            row("fleet".into(), &roles.fleet.keyids, roles.fleet.threshold),
        ];
        rows.extend(roles.releases.iter().map(|release| {
            row(format!("release {}", release.names.join(", ")), &release.keyids, release.threshold)
        }));
        let headings = [("ROLE", Align::Left), ("NEEDS", Align::Left), ("KEYS", Align::Left)];
        text.push_str(&render_table(&headings, rows));
        let mut revoked = Vec::new();
        revoked.extend(revoked_keys.iter().map(|key| format!("revoked  key {} ({key})", names.of(key))));
        revoked.extend(revoked_bundles.iter().map(|bundle| format!("revoked  bundle {bundle}")));
        revoked.extend(
            min_versions.iter().map(|(model, least)| format!("revoked  {model} below version {least}")),
        );
        if !revoked.is_empty() {
            text.push_str(&format!("\n{}\n", revoked.join("\n")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use agentd_bundle::{
        PrivateKey,
        author::{RolePlan, TrustPlan, with_min_version, without_bundle},
    };
    use agentd_types::Digest;

    use super::*;

    #[test]
    fn a_trust_document_reads_like_this() {
        let key = |seed| PrivateKey::from_seed(&[seed; 32]).public();
        let plan = TrustPlan {
            fleet: "plant".parse().unwrap(),
            created: UnixTime(1_800_000_000),
            expires: UnixTime(1_800_000_000 + 365 * 86_400),
            root: RolePlan { keys: vec![key(1), key(2), key(3)], threshold: 2 },
            fleet_role: RolePlan { keys: vec![key(4)], threshold: 1 },
            releases: vec![(
                vec!["vision/*".into(), "audio/*".into()],
                RolePlan { keys: vec![key(5)], threshold: 1 },
            )],
        };
        let document = without_bundle(plan.document(), Digest::of(b"bundle"));
        let document = with_min_version(document, "vision/defect".parse().unwrap(), 7);
        let report = Report {
            document: &document,
            sha256: Digest::of(b"payload"),
            complete: true,
            expired: false,
            signed_by: Vec::new(),
            signatures: "2 of 2 for the root role of trust 1: root-1, root-2".into(),
        };
        insta::assert_snapshot!(report.text(&KeyNames::default(), UnixTime(1_800_000_000)), @r#"
trust 1 of fleet plant   made 2027-01-15 08:00:00Z   expires 2028-01-15 08:00:00Z (in 365 d)
signed  2 of 2 for the root role of trust 1: root-1, root-2

ROLE                       NEEDS   KEYS
root                       2 of 3  7ab6b86c, c3f860ca, 8bf5a507
fleet                      1 of 1  3336b222
release vision/*, audio/*  1 of 1  e9d93378

revoked  bundle 1e6ed65d77d6364eeaed5a745ba5c4985ae2b700dd85d7cf7f027bdf294a33fc
revoked  vision/defect below version 7
"#);
    }
}
