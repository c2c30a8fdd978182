//! What is said of wrong usage: one line, and the exit codes of `qemu-img`.

use std::process::ExitCode;

use clap::{
    Arg, Command, Parser,
    error::{ContextKind, ContextValue, Error, ErrorKind},
};

/// Reads the command line. The value of an option is what stands behind it, whatever it begins
/// with.
///
/// # Errors
/// What of it makes no sense, or the help that it asks for.
pub fn parse<T: Parser>() -> Result<T, Error> {
    let takes_anything = |arg: Arg| {
        let is_option = !arg.is_positional() && arg.get_action().takes_values();
        // Those without values count where they stand.
        let has_value = is_option && arg.get_num_args().is_none_or(|count| count.takes_values());
        let anything = has_value || arg.is_allow_hyphen_values_set();
        arg.allow_hyphen_values(anything)
    };
    let mut command = T::command()
        .mut_args(takes_anything)
        .mut_subcommands(|command| command.mut_args(takes_anything));
    let matches = command.try_get_matches_from_mut(std::env::args_os())?;
    T::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Prints what `error` says, also where it is the help that was asked for; the exit code for it.
pub fn report(error: &Error, tool: &Command) -> ExitCode {
    if !error.use_stderr() {
        // Whoever asked for help and went away needs none.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let command = std::env::args_os().find_map(|arg| {
        let name = arg.into_string().ok()?;
        tool.find_subcommand(&name).is_some().then_some(name)
    });
    let help = match &command {
        Some(command) => format!("strata-img {command} --help"),
        None => "strata-img --help".to_owned(),
    };
    eprintln!("strata-img: {} (see '{help}')", line(error, tool));
    // 1 is what compare says of images that differ; as qemu-img it says so also of options that
    // there are not, but not of values that there are not.
    let wrong_value = matches!(
        error.kind(),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation
    );
    let compares = command.is_some_and(|command| command == "compare");
    ExitCode::from(if compares && wrong_value { 2 } else { 1 })
}

fn line(error: &Error, tool: &Command) -> String {
    let commands = || {
        let names = tool.get_subcommands().map(Command::get_name);
        names.collect::<Vec<_>>().join(", ")
    };
    if let Some(ContextValue::String(name)) = error.get(ContextKind::InvalidSubcommand) {
        return format!("there is no command '{name}', only {}", commands());
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return format!("a command is needed: {}", commands());
    }
    // The first paragraph says what is wrong, the others how it would be right.
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty());
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    let text = words.join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}
