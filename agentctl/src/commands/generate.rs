//! Writes completions and man pages, from the one definition of the command line.

use std::{fs, io, path::PathBuf};

use clap_complete::{Shell, generate_to};

use crate::{
    command_line,
    context::Context,
    failure::{Exit, Failure},
};

/// Where to write.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder that gets `completions/` and `man/`.
    folder: PathBuf,
}

pub(crate) fn run(args: Args, _context: &Context) -> Result<Exit, Failure> {
    write(&args).map_err(|error| {
        Failure::new(format!("cannot write completions and man pages into `{}`", args.folder.display()))
            .because(&error)
    })?;
    Ok(Exit::Done)
}

fn write(args: &Args) -> io::Result<()> {
    let completions = args.folder.join("completions");
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command_line(), "agentctl", &completions)?;
    }
    let man = args.folder.join("man");
    fs::create_dir_all(&man)?;
    clap_mangen::generate_to(command_line(), &man)
}
