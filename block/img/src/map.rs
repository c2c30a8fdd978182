//! `strata-img map`.

use std::path::PathBuf;

use clap::Args;

use crate::{
    Failure, Output, Reading, Tool, output, size,
    status::{Chain, Status},
};

#[derive(Args)]
#[command(after_help = "Example:\n  strata-img map --output=json disk.qcow2")]
pub struct MapArgs {
    #[command(flatten)]
    reading: Reading,
    /// How to print it
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
    /// Where to start, in bytes
    #[arg(short = 's', long, value_name = "OFFSET", value_parser = size::parse, default_value = "0")]
    start_offset: u64,
    /// Bytes to look at, to the end if not given
    #[arg(short = 'l', long, value_name = "LEN", value_parser = size::parse)]
    max_length: Option<u64>,
    /// The image
    file: PathBuf,
}

/// Runs the command.
pub async fn run(tool: &Tool, args: MapArgs) -> Result<u8, Failure> {
    let top = tool.open(&args.file, &args.reading).await?;
    let chain = Chain::new(&top).await?;
    let start = args.start_offset.min(chain.size());
    let most = args.max_length.unwrap_or(u64::MAX);
    let end = chain.size().min(start.saturating_add(most));
    let mut printer = Printer::new(args.output, &chain)?;
    let (mut at, mut pending): (u64, Option<(u64, Status)>) = (start, None);
    while at < end {
        let found = chain.status(at, end - at).await?;
        let next = at + found.len;
        pending = match pending {
            Some((start, last)) if merges(&last, &found) => {
                let len = last.len + found.len;
                Some((start, Status { len, ..last }))
            }
            last => {
                if let Some((start, last)) = last {
                    printer.entry(start, &last)?;
                }
                Some((at, found))
            }
        };
        at = next;
    }
    if let Some((start, last)) = pending {
        printer.entry(start, &last)?;
    }
    printer.end()?;
    Ok(0)
}

/// Whether `next`, which follows `last` on the disk, is more of the same.
fn merges(last: &Status, next: &Status) -> bool {
    let expected = last.offset.map(|offset| offset + last.len);
    (last.depth, last.present, last.zero, last.data)
        == (next.depth, next.present, next.zero, next.data)
        && expected == next.offset
}

struct Printer<'a> {
    output: Output,
    chain: &'a Chain,
    entries: u64,
}

impl<'a> Printer<'a> {
    fn new(output: Output, chain: &'a Chain) -> Result<Self, Failure> {
        if output == Output::Human {
            output::print("Offset          Length          Mapped to       File\n")?;
        }
        Ok(Self {
            output,
            chain,
            entries: 0,
        })
    }

    fn entry(&mut self, start: u64, status: &Status) -> Result<(), Failure> {
        let Status { len, depth, .. } = *status;
        match self.output {
            Output::Json => {
                let open = if self.entries == 0 { "[" } else { ",\n" };
                output::print(&(open.to_owned() + &json_entry(start, status)))?;
            }
            Output::Human if status.data && !status.zero => {
                let Some(offset) = status.offset else {
                    return Err(Failure::new(
                        "File contains external, encrypted or compressed clusters.",
                    ));
                };
                let file = self
                    .chain
                    .layer(depth)
                    .image()
                    .data_storage()
                    .path()
                    .display();
                let columns = [start, len, offset].map(hex).concat();
                output::print(&format!("{columns}{file}\n"))?;
            }
            Output::Human => {}
        }
        self.entries += 1;
        Ok(())
    }

    fn end(self) -> Result<(), Failure> {
        match (self.output, self.entries) {
            // A disk without bytes has one entry, of length 0.
            (Output::Json, 0) => {
                output::print(&("[".to_owned() + &json_entry(0, &Status::default()) + "]\n"))
            }
            (Output::Json, _) => output::print("]\n"),
            (Output::Human, _) => Ok(()),
        }
    }
}

fn json_entry(start: u64, status: &Status) -> String {
    let Status {
        len,
        depth,
        present,
        zero,
        data,
        offset,
    } = *status;
    let offset = offset.map_or(String::new(), |at| format!(", \"offset\": {at}"));
    format!(
        "{{ \"start\": {start}, \"length\": {len}, \"depth\": {depth}, \"present\": {present}, \"zero\": {zero}, \"data\": {data}{offset}}}"
    )
}

/// A number in a column, as C's `%#-16x` prints it.
fn hex(n: u64) -> String {
    let text = if n == 0 {
        "0".to_owned()
    } else {
        format!("{n:#x}")
    };
    format!("{text:<16}")
}
