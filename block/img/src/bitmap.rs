//! `strata-img bitmap`.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    rc::Rc,
};

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, parser::ValueSource};
use strata_graph::{
    Format, Node,
    bitmaps::{BitmapChange, BitmapPlan},
};

use crate::{Failure, Reading, Tool, everywhere, open_error::OpenError, refuse_bad_bitmaps, size};

/// Changes a persistent dirty bitmap of a qcow2 image: one thing after the other, as the options
/// are given.
#[derive(Args)]
#[command(
    override_usage = "strata-img bitmap [OPTIONS] (--add|--remove|--clear|--enable|--disable|--merge <SOURCE>)... <FILE> <BITMAP>",
    after_help = "Examples:\n  strata-img bitmap --add -g 64k -f qcow2 disk.qcow2 since-monday\n  strata-img bitmap --merge since-monday -b old.qcow2 -F qcow2 -f qcow2 disk.qcow2 all"
)]
pub struct BitmapArgs {
    #[command(flatten)]
    actions: Actions,
    /// Image whose bitmaps are merged, rather than those of the image itself
    #[arg(short = 'b', value_name = "SOURCE_FILE")]
    source: Option<PathBuf>,
    /// Format of that image; guessed if not given
    #[arg(short = 'F', value_name = "FMT")]
    source_format: Option<Format>,
    /// Bytes that share a bit, for --add: a power of two, 512 at least; the cluster size, from 4k
    /// to 64k, if not given
    #[arg(short, long, value_name = "SIZE")]
    granularity: Option<String>,
    /// Format of the image: never guessed for an image that is written
    #[arg(short = 'f', value_name = "FMT")]
    format: Option<Format>,
    /// The image, and the name of the bitmap
    #[arg(value_names = ["FILE", "BITMAP"])]
    names: Vec<OsString>,
}

/// What is to be done, in this order.
struct Actions(Vec<Action>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Add,
    Remove,
    Clear,
    Enable,
    Disable,
    Merge(String),
}

/// The actions without a value, with what `--help` says of them.
const FLAGS: [(&str, &str, Action); 5] = [
    (
        "add",
        "Make the bitmap; it records unless --disable follows",
        Action::Add,
    ),
    ("remove", "Remove the bitmap", Action::Remove),
    ("clear", "Nothing is dirty any more", Action::Clear),
    ("enable", "Writes are recorded from now on", Action::Enable),
    ("disable", "Writes are recorded no longer", Action::Disable),
];

impl Args for Actions {
    fn augment_args(command: clap::Command) -> clap::Command {
        let flags = FLAGS.map(|(name, help, _)| {
            // Values, so that there are as many places on the command line to be asked for.
            Arg::new(name)
                .long(name)
                .help(help)
                .action(ArgAction::Append)
                .num_args(0)
                .default_missing_value("")
        });
        let merge = Arg::new("merge")
            .long("merge")
            .value_name("SOURCE")
            .help("What is dirty in the bitmap SOURCE is dirty in this one, too")
            .action(ArgAction::Append);
        command.args(flags).arg(merge)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Actions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found = Vec::new();
        let places = |name| {
            let given = matches.value_source(name) == Some(ValueSource::CommandLine);
            let places = matches.indices_of(name).filter(|_| given);
            places.into_iter().flatten()
        };
        for (name, _, action) in &FLAGS {
            found.extend(places(name).map(|place| (place, action.clone())));
        }
        let sources = matches.get_many::<String>("merge").into_iter().flatten();
        let sources = sources.map(|source| Action::Merge(source.clone()));
        found.extend(places("merge").zip(sources));
        found.sort_by_key(|(place, _)| *place);
        Ok(Self(found.into_iter().map(|(_, action)| action).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Runs the command.
pub async fn run(tool: &Tool, args: BitmapArgs) -> Result<u8, Failure> {
    args.check()?;
    let granularity = args.granularity()?;
    let [file, name] = args.names.as_slice() else {
        return Err(Failure::new("Expecting filename and bitmap name"));
    };
    let name = name
        .to_str()
        .ok_or_else(|| Failure::new("The name of a bitmap has to be UTF-8"))?;
    let place = Path::new(file).display().to_string();
    let node = tool.open_for_writing(file.as_ref(), args.format).await?;
    let source = match &args.source {
        None => node.clone(),
        Some(path) => {
            let reading = Reading {
                format: args.source_format,
                force_share: false,
                direct: false,
            };
            // Never a list of options, as for the reference.
            let options = tool.everywhere.of(reading.options());
            let (path, options) = everywhere::named(path, options)?;
            // Its backing file may well be the image that is written.
            let opened = tool.opener.open_layer(&path, &options).await;
            opened.map_err(OpenError)?
        }
    };
    // What stands in the way can be removed.
    let removes = |action: &Action| matches!(action, Action::Remove);
    if !args.actions.0.iter().all(removes) {
        refuse_bad_bitmaps(&node)?;
        refuse_bad_bitmaps(&source)?;
    }
    for action in &args.actions.0 {
        let change = action.change(granularity, &source);
        change_bitmap(&node, &place, name, change)
            .await
            .map_err(|why| {
                let action = action.name();
                Failure::new(format!("Operation {action} on bitmap {name} failed: {why}"))
            })?;
    }
    node.image().close().await?;
    Ok(0)
}

async fn change_bitmap(
    node: &Node,
    place: &str,
    name: &str,
    change: BitmapChange,
) -> Result<(), String> {
    let plan = BitmapPlan::new(node, place, name, change)?;
    plan.announce().await.map_err(|error| error.to_string())?;
    plan.carry_out();
    Ok(())
}

impl BitmapArgs {
    fn check(&self) -> Result<(), Failure> {
        let actions = &self.actions.0;
        let adds = actions.contains(&Action::Add);
        let merges = actions
            .iter()
            .any(|action| matches!(action, Action::Merge(_)));
        Err(Failure::new(if self.names.len() != 2 {
            "Expecting filename and bitmap name"
        } else if actions.is_empty() {
            "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"
        } else if self.granularity.is_some() && !adds {
            "granularity only supported with --add"
        } else if self.source_format.is_some() && self.source.is_none() {
            "-F only supported with -b"
        } else if self.source.is_some() && !merges {
            "Merge bitmap source file only supported with --merge"
        } else {
            return Ok(());
        }))
    }

    fn granularity(&self) -> Result<Option<u32>, Failure> {
        let Some(text) = &self.granularity else {
            return Ok(None);
        };
        let bytes = size::parse(text).map_err(Failure::new)?;
        // Too large a number becomes one that will be refused: it is no power of two.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Ok(Some(bytes).filter(|bytes| *bytes > 0))
    }
}

impl Action {
    fn name(&self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Clear => "clear",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Merge(_) => "merge",
        }
    }

    fn change(&self, granularity: Option<u32>, source: &Rc<Node>) -> BitmapChange {
        match self {
            Self::Add => BitmapChange::Add {
                granularity,
                persistent: true,
                disabled: false,
            },
            Self::Remove => BitmapChange::Remove,
            Self::Clear => BitmapChange::Clear,
            Self::Enable => BitmapChange::Record(true),
            Self::Disable => BitmapChange::Record(false),
            Self::Merge(name) => BitmapChange::Merge(vec![(source.clone(), name.clone())]),
        }
    }
}
