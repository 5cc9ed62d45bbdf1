//! Texts that a person fills in.

/// A model card to fill in.
pub(super) fn card_template(name: &str) -> String {
    format!(
        "# {name}\n\n\
         What the model answers, and for whom.\n\n\
         ## Intended use\n\n\
         Where it may be used, and where it must not be.\n\n\
         ## Data\n\n\
         What it was trained and tested on, from where, under which terms.\n\n\
         ## Quality\n\n\
         Figures with the data they were measured on; where it fails, and how that shows.\n\n\
         ## Contact\n\n\
         Who answers questions.\n"
    )
}

/// Stands where the licence belongs.
pub(super) const fn licence_template() -> &'static str {
    "Put the text of the model's licence here, and its SPDX expression into bundle.toml.\n"
}
