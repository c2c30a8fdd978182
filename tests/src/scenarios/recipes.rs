//! The recipes of the documents are run as they stand there.
//!
//! A block of commands or of a workflow is one if `<!-- recipe: NAME -->` stands before it.

mod surroundings;
mod workflow;

use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::program::{self, Ended};
use std::fs;
use std::time::Duration;

/// Longest that a recipe may take, in an emulated test host with other work beside it.
const LIMIT: Duration = Duration::from_secs(180);

const README: &str = include_str!("../../../README.md");
const CI: &str = include_str!("../../../docs/CI.md");

/// A block that people paste.
#[derive(Debug, PartialEq, Eq)]
struct Recipe {
    name: String,
    text: String,
}

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    surroundings::make(fixture)?;
    let recipes: Vec<_> = recipes(README)?.into_iter().chain(recipes(CI)?).collect();
    let names: Vec<_> = recipes.iter().map(|recipe| recipe.name.as_str()).collect();
    // Listed here, so that none is lost from the documents.
    let expected = [
        "readme",
        "smoke",
        "distribution",
        "kernels",
        "actions with KVM",
        "actions without KVM",
        "initrd",
    ];
    ensure(names == expected, || format!("recipes: {names:?}"))?;
    for Recipe { name, text } in &recipes {
        let scripts = if name.starts_with("actions") {
            workflow::scripts(text)?
        } else {
            vec![text.clone()]
        };
        let mut said = String::new();
        for script in scripts {
            let ended = run(fixture, &script)?;
            ensure(ended.code == Some(0), || format!("{name}: {ended:?}"))?;
            said += &ended.stdout;
        }
        check(fixture, name, &said)?;
        fixture.verified(name, said.lines().last().unwrap_or("exit status 0"));
    }
    Ok(())
}

/// What a recipe is to leave besides its exit status.
fn check(fixture: &Fixture, name: &str, said: &str) -> Outcome<()> {
    let version = surroundings::kernel_version(fixture)?;
    let runs = |count: usize| {
        let found = said.matches(&version).count();
        ensure(found >= count, || format!("{name}: {said}"))
    };
    let holds = |file: &str, wanted: &str| {
        let text = fs::read_to_string(fixture.dir.join(file)).context(file)?;
        ensure(text.contains(wanted), || format!("{name}: {file}: {text}"))
    };
    match name {
        "readme" | "actions with KVM" => {
            runs(1)?;
            holds("junit.xml", "failures=\"0\"")
        }
        "smoke" => holds("result.json", "\"outcome\": \"command\""),
        "initrd" => {
            holds("console.log", "the initrd's program ran")?;
            holds("result.json", "\"outcome\": \"power-off\"")
        }
        // The image has kept nothing of what was written there.
        "distribution" => holds("results/listing", "mine.conf"),
        "kernels" => runs(2),
        _ => runs(1),
    }
}

/// Runs a script as CI servers do, with what stands for what a test host does not have.
fn run(fixture: &Fixture, script: &str) -> Outcome<Ended> {
    let file = fixture.dir.join("script");
    fs::write(&file, script).context("script")?;
    let command = format!(
        "cd '{dir}' && TMPDIR='{dir}' PATH=\"{dir}/stand-ins:$PATH\" exec sh -e script",
        dir = fixture.dir.display()
    );
    program::run("sh", &["-c", &command], LIMIT)
}

/// The recipes of a document, in order.
fn recipes(document: &str) -> Outcome<Vec<Recipe>> {
    let mut found = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let name = line.strip_prefix("<!-- recipe: ");
        let Some(name) = name.and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        let blank = lines.next();
        ensure(blank == Some(""), || format!("{name}: {blank:?}"))?;
        let text: String = lines
            .by_ref()
            .map_while(|line| line.strip_prefix("    ").or(line.is_empty().then_some("")))
            .map(|line| format!("{line}\n"))
            .collect();
        ensure(!text.trim().is_empty(), || format!("{name}: no block"))?;
        let name = name.to_owned();
        found.push(Recipe { name, text });
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
