//! Texts that were asked for.

use std::io::Write as _;

/// A text for standard output.
#[derive(Debug)]
pub enum Output {
    /// As it stands.
    Text(String),
    /// A help, which is coloured on a terminal.
    Help(clap::Error),
}

impl Output {
    /// Prints it.
    ///
    /// # Errors
    /// Standard output takes no more.
    pub fn print(&self) -> std::io::Result<()> {
        match self {
            Output::Text(text) => {
                let mut output = std::io::stdout().lock();
                output.write_all(text.as_bytes())?;
                output.flush()
            }
            Output::Help(help) => help.print(),
        }
    }
}
