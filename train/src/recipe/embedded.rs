//! Recipes that are embedded in the program.

/// A recipe that is embedded in the program.
#[derive(Debug, Clone, Copy)]
pub struct Embedded {
    /// Name, as given to `dressage train`.
    pub name: &'static str,
    /// Its TOML.
    pub text: &'static str,
}

impl Embedded {
    /// The recipe's own line on what it trains.
    pub fn about(&self) -> String {
        let table = toml::from_str::<toml::Table>(self.text).unwrap_or_default();
        table.get("about").and_then(|about| about.as_str()).unwrap_or_default().to_owned()
    }
}

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(Embedded { name: $name, text: include_str!(concat!("embedded/", $name, ".toml")) }),*]
    };
}

/// All embedded recipes, in the order of listing.
pub const EMBEDDED: &[Embedded] = embedded![
    "demo",
    "tracks",
    "gtav-s-rein",
    "gtav-s-full",
    "gtav-b-rein",
    "gtav-b-full",
    "gtav-l-rein",
    "gtav-l-freeze",
    "gtav-l-full",
    "gtav-g-rein",
    "citys-l-rein",
    "acdc-l-rein",
];
