//! What is true at the help desk: a company's products, cities and words for things. All invented.

/// A product with what the help desk knows about it.
#[derive(Debug, PartialEq, Eq)]
pub struct Product {
    /// As people write it, with its kind: `Lumo lamp`.
    pub name: &'static str,
    /// In credits.
    pub price: u32,
    /// Its colour.
    pub colour: &'static str,
    /// Where it is made.
    pub city: &'static str,
    /// In years.
    pub warranty: u32,
    /// The shape of its only button.
    pub button: &'static str,
    /// How long the button is held for a reset.
    pub seconds: u32,
    /// The colour of the light that says it is ready.
    pub light: &'static str,
}

/// Cities of this world.
pub const CITIES: &[&str] = &["Ardenfell", "Tisk", "Velmora", "Brenholt", "Quillon", "Mirefield", "Sandrock"];
/// Product colours.
pub const COLOURS: &[&str] = &["red", "blue", "green", "white", "black", "yellow", "grey", "brown"];
/// Shapes of buttons.
pub const BUTTONS: &[&str] = &["round", "square", "top", "side", "small", "large"];
/// Colours of lights.
pub const LIGHTS: &[&str] = &["green", "blue", "white", "orange"];
/// Prices in credits.
pub const PRICES: &[u32] = &[15, 20, 25, 30, 40, 45, 60, 75, 80, 90];
/// Warranties in years.
pub const WARRANTIES: &[u32] = &[1, 2, 3, 5];
/// Seconds to hold a button.
pub const SECONDS: &[u32] = &[3, 5, 8, 10];

/// The products.
pub const PRODUCTS: &[Product] = &[
    product("Lumo lamp", (40, "white", "Ardenfell", 2), ("round", 5, "green")),
    product("Tavi kettle", (25, "red", "Tisk", 1), ("side", 3, "blue")),
    product("Orrin radio", (60, "brown", "Velmora", 3), ("top", 8, "white")),
    product("Pelk fan", (30, "blue", "Brenholt", 2), ("square", 10, "orange")),
    product("Sova clock", (15, "black", "Quillon", 5), ("small", 5, "white")),
    product("Nimbo heater", (75, "grey", "Mirefield", 3), ("large", 10, "green")),
    product("Kestrel phone", (90, "green", "Sandrock", 1), ("side", 8, "blue")),
    product("Dala scale", (20, "yellow", "Tisk", 5), ("round", 3, "orange")),
    product("Fenn speaker", (45, "black", "Velmora", 2), ("top", 5, "blue")),
    product("Mora camera", (80, "white", "Quillon", 3), ("small", 8, "green")),
];

const fn product(
    name: &'static str,
    (price, colour, city, warranty): (u32, &'static str, &'static str, u32),
    (button, seconds, light): (&'static str, u32, &'static str),
) -> Product {
    Product { name, price, colour, city, warranty, button, seconds, light }
}

/// A city's river and the hour its shop opens.
#[derive(Debug, PartialEq, Eq)]
pub struct City {
    /// The city.
    pub name: &'static str,
    /// The river through it.
    pub river: &'static str,
    /// When the shop opens, in the morning.
    pub opens: u32,
}

/// Rivers of this world.
pub const RIVERS: &[&str] = &["Wend", "Sarn", "Lisk", "Tamble"];
/// Opening hours.
pub const HOURS: &[u32] = &[7, 8, 9, 10];

/// The cities.
pub const SHOPS: &[City] = &[
    City { name: "Ardenfell", river: "Wend", opens: 8 },
    City { name: "Tisk", river: "Sarn", opens: 9 },
    City { name: "Velmora", river: "Lisk", opens: 7 },
    City { name: "Brenholt", river: "Tamble", opens: 10 },
    City { name: "Quillon", river: "Sarn", opens: 8 },
    City { name: "Mirefield", river: "Wend", opens: 9 },
    City { name: "Sandrock", river: "Lisk", opens: 10 },
];
