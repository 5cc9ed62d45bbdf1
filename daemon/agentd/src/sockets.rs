//! The two sockets, and who may connect to each: whoever may ask for predictions may not therefore administrate.
//!
//! A socket belongs to a group and has mode 0660, or has mode 0600 when the group cannot be had. A daemon that runs in
//! a user namespace may not give a file to a group, so [`prepare`], run as root before it, makes a folder for each
//! group: what is made in such a folder belongs to its group (the set-group-id bit), also when it is moved out.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown, lchown},
    path::{Path, PathBuf},
};

use agentd_config::Config;
use agentd_serving::{ListenError, bind_unix_beside};
use log::warn;
use tokio::net::UnixListener;

/// Names of groups and their numbers. Groups of a directory service are given by number.
const GROUPS: &str = "/etc/group";

/// The bit that hands a folder's group on.
const SET_GROUP_ID: u32 = 0o2000;

/// Who a socket is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum For<'a> {
    /// The daemon's own user.
    Owner,
    /// The daemon's own group.
    OwnGroup,
    /// A group by name or number.
    Group(&'a str),
}

impl<'a> For<'a> {
    /// Whoever may administrate.
    pub(crate) fn administrators(config: &'a Config) -> Self {
        config.device.admin_group.as_deref().map_or(Self::Owner, Self::Group)
    }

    /// Whoever may ask for predictions.
    pub(crate) fn applications(config: &'a Config) -> Self {
        config.serving.group.as_deref().map_or(Self::OwnGroup, Self::Group)
    }
}

/// Who may connect to a socket, as it came out.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// The socket's name.
    pub(crate) socket: String,
    /// For people.
    pub(crate) who: String,
    /// Why the group that was asked for was not to be had although it exists.
    pub(crate) problem: Option<String>,
}

/// Binds `name` in the folder `run`.
///
/// # Errors
/// When it cannot listen there. A group that cannot be had is no error: fewer may connect then.
pub(crate) fn bind(run: &Path, name: &str, whom: For<'_>) -> Result<(UnixListener, Access), ListenError> {
    let own = |mode, who: &str, problem| {
        let access = Access { socket: name.to_owned(), who: who.to_owned(), problem };
        Ok((make(run, run, name, mode, None)?, access))
    };
    let group = match whom {
        For::Owner => return own(0o600, "the daemon's user", None),
        For::OwnGroup => return own(0o660, "the daemon's group", None),
        For::Group(group) => group,
    };
    let who = format!("group {group}");
    let given =
        |listener| Ok((listener, Access { socket: name.to_owned(), who: who.clone(), problem: None }));
    let folder = folder(run, group);
    if hands_on_its_group(&folder) {
        return given(make(&folder, run, name, 0o660, None)?);
    }
    let Some(number) = number(group) else {
        return own(0o600, &format!("the daemon's user; there is no group {group}"), None);
    };
    match make(run, run, name, 0o660, Some(number)) {
        Ok(listener) => given(listener),
        Err(ListenError::Refused { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            warn!(event = "socket.group", error = source.to_string().as_str();
                "A socket cannot be given to its group: only the daemon's user may connect");
            own(0o600, "the daemon's user", Some(format!("it cannot be given to group {group}: {source}")))
        }
        Err(error) => Err(error),
    }
}

fn make(
    beside: &Path,
    run: &Path,
    name: &str,
    mode: u32,
    group: Option<u32>,
) -> Result<UnixListener, ListenError> {
    bind_unix_beside(beside, &run.join(name), |socket| {
        if group.is_some() {
            lchown(socket, None, group)?;
        }
        fs::set_permissions(socket, fs::Permissions::from_mode(mode))
    })
}

/// Makes the folders from which sockets get their groups, where such groups are there. Run as root before the daemon.
///
/// # Errors
/// When a folder is in the way or cannot be made.
pub(crate) fn prepare(config: &Config) -> io::Result<()> {
    let run = &config.device.run;
    for group in config.device.admin_group.iter().chain(&config.serving.group) {
        if let Some(number) = number(group) {
            prepare_folder(run, &folder(run, group), number)?;
        }
    }
    Ok(())
}

/// Never follows a link: `run` belongs to the daemon's user, and this runs as root.
fn prepare_folder(run: &Path, folder: &Path, group: u32) -> io::Result<()> {
    let owner = fs::metadata(run)?.uid();
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && hands_on_its_group(folder) => {
            return Ok(());
        }
        made => made?,
    }
    let opened = fs::File::open(folder)?;
    let (inside, outside) = (opened.metadata()?, fs::symlink_metadata(folder)?);
    if !outside.is_dir() || (inside.dev(), inside.ino()) != (outside.dev(), outside.ino()) {
        return Err(io::Error::other(format!("`{}` was replaced", folder.display())));
    }
    fchown(&opened, Some(owner), Some(group))?;
    opened.set_permissions(fs::Permissions::from_mode(SET_GROUP_ID | 0o700))
}

fn folder(run: &Path, group: &str) -> PathBuf {
    run.join(format!("for-{group}"))
}

fn hands_on_its_group(folder: &Path) -> bool {
    fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && found.mode() & SET_GROUP_ID != 0)
}

fn number(group: &str) -> Option<u32> {
    group.parse().ok().or_else(|| listed(&fs::read_to_string(GROUPS).ok()?, group))
}

/// The number of a group in a file of the form of `/etc/group`.
fn listed(groups: &str, group: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn modes(run: &Path, name: &str) -> (u32, u32) {
        let found = fs::symlink_metadata(run.join(name)).unwrap();
        (found.mode() & 0o777, found.gid())
    }

    #[tokio::test]
    async fn only_the_daemons_user_may_administrate_where_there_is_no_group_for_it() {
        let run = tempfile::tempdir().unwrap();
        for whom in [For::Owner, For::Group("agentd-test-nobody-has-this")] {
            let (_listener, access) = bind(run.path(), "control.sock", whom).unwrap();
            assert_eq!(modes(run.path(), "control.sock").0, 0o600, "{whom:?}");
            assert!(access.who.starts_with("the daemon's user") && access.problem.is_none(), "{access:?}");
        }
        let (_listener, _) = bind(run.path(), "infer.sock", For::OwnGroup).unwrap();
        assert_eq!(modes(run.path(), "infer.sock").0, 0o660);
    }

    #[tokio::test]
    async fn a_socket_belongs_to_the_group_that_it_is_for() {
        let run = tempfile::tempdir().unwrap();
        let own = fs::metadata(run.path()).unwrap();
        // Only root may give files to a group that it is not in.
        let group = if own.uid() == 0 { own.gid() + 4_711 } else { own.gid() };
        let name = group.to_string();
        let (_listener, access) = bind(run.path(), "control.sock", For::Group(&name)).unwrap();
        assert_eq!(modes(run.path(), "control.sock"), (0o660, group), "{access:?}");

        // From a folder that was prepared, without giving anything away.
        prepare_folder(run.path(), &folder(run.path(), &name), group).unwrap();
        prepare_folder(run.path(), &folder(run.path(), &name), group).unwrap();
        let (_listener, access) = bind(run.path(), "infer.sock", For::Group(&name)).unwrap();
        assert_eq!(modes(run.path(), "infer.sock"), (0o660, group), "{access:?}");
        assert_eq!(fs::read_dir(folder(run.path(), &name)).unwrap().count(), 0, "moved out");
    }

    #[test]
    fn a_link_in_the_place_of_a_prepared_folder_is_not_followed() {
        let (run, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let before = fs::metadata(elsewhere.path()).unwrap().mode();
        std::os::unix::fs::symlink(elsewhere.path(), folder(run.path(), "0")).unwrap();
        assert!(prepare_folder(run.path(), &folder(run.path(), "0"), 0).is_err());
        assert_eq!(fs::metadata(elsewhere.path()).unwrap().mode(), before);
    }

    #[test]
    fn groups_are_found_by_name() {
        let groups = "root:x:0:\nagentd:x:990:a,b\nbroken\nagentd-admin:x:991:\n";
        for (name, want) in
            [("agentd", Some(990)), ("agentd-admin", Some(991)), ("broken", None), ("x", None)]
        {
            assert_eq!(listed(groups, name), want, "{name}");
        }
    }
}
