//! Messages about the settings, for the log.

/// A message that waits until the log exists, since the settings decide on the log too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is a warning.
    pub warns: bool,
    /// A sentence.
    pub text: String,
}

impl Notice {
    pub(super) fn warning(text: String) -> Notice {
        Notice { warns: true, text }
    }

    pub(super) fn information(text: String) -> Notice {
        Notice { warns: false, text }
    }
}
