//! `strata-img chain`.

use std::{
    io::{IsTerminal, stdout},
    path::PathBuf,
};

use clap::Args;
use strata_block::chain::{ChainInfo, PARTS, columns, draw, wants_colour};

use crate::{Failure, Output, Reading, Tool, output};

#[derive(Args)]
#[command(after_help = "Example:\n  strata-img chain disk.qcow2")]
pub struct ChainArgs {
    #[command(flatten)]
    reading: Reading,
    /// How to print it
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
    /// The image
    file: PathBuf,
}

/// Runs the command.
pub async fn run(tool: &Tool, args: ChainArgs) -> Result<u8, Failure> {
    let top = tool.open(&args.file, &args.reading).await?;
    let chain = ChainInfo::look(&top, PARTS).await?;
    match args.output {
        Output::Json => output::print_json(&chain)?,
        Output::Human => {
            let colour = wants_colour(stdout().is_terminal());
            output::print(&draw(&chain, columns(), colour))?;
        }
    }
    Ok(0)
}
