//! What the commands about dirty bitmaps do.

use serde_json::Value;
use strata_block::api::{BitmapChange, BitmapCmd, BitmapRef, Cmd, CmdError};

use super::args::Args;
use super::run::{Started, block};
use super::{Context, generic};

fn bitmap(args: &Args, change: BitmapChange) -> Started {
    named(args, "name", change)
}

fn named(args: &Args, name: &str, change: BitmapChange) -> Started {
    block(Cmd::Bitmap(BitmapCmd {
        node: args.required_text("node"),
        name: args.required_text(name),
        change,
    }))
}

pub(super) fn add(args: &Args, _: &mut Context<'_>) -> Started {
    let granularity = args.integer("granularity").map(u32::try_from).transpose();
    let granularity =
        granularity.map_err(|_| generic("Parameter 'granularity' expects uint32_t"))?;
    bitmap(
        args,
        BitmapChange::Add {
            granularity,
            persistent: args.flag("persistent", false),
            disabled: args.flag("disabled", false),
        },
    )
}

pub(super) fn remove(args: &Args, _: &mut Context<'_>) -> Started {
    bitmap(args, BitmapChange::Remove)
}

pub(super) fn clear(args: &Args, _: &mut Context<'_>) -> Started {
    bitmap(args, BitmapChange::Clear)
}

pub(super) fn enable(args: &Args, _: &mut Context<'_>) -> Started {
    bitmap(args, BitmapChange::Record(true))
}

pub(super) fn disable(args: &Args, _: &mut Context<'_>) -> Started {
    bitmap(args, BitmapChange::Record(false))
}

pub(super) fn merge(args: &Args, _: &mut Context<'_>) -> Started {
    let sources = references(args, "bitmaps")?;
    named(args, "target", BitmapChange::Merge(sources))
}

/// The bitmaps of a list: by name, or by node and name.
pub(super) fn references(args: &Args, list: &str) -> Result<Vec<BitmapRef>, CmdError> {
    let reference = |(index, value): (usize, &Value)| {
        if let Some(name) = value.as_str() {
            let name = name.to_owned();
            return Ok(BitmapRef { node: None, name });
        }
        let member = |member: &str| {
            let text = value.get(member).and_then(Value::as_str);
            let missing = || generic(format!("Parameter '{list}[{index}].{member}' is missing"));
            text.map(str::to_owned).ok_or_else(missing)
        };
        Ok(BitmapRef {
            node: Some(member("node")?),
            name: member("name")?,
        })
    };
    args.list(list).iter().enumerate().map(reference).collect()
}
