//! The record of a run: results.json, and summary.md and index.html made from it.

mod html;
mod number;
mod plot;
mod results;
mod summary;

use std::fs;
use std::path::Path;

pub(crate) use self::plot::over_time;
pub(crate) use self::results::{EntrantRecord, Record, ScenarioRecord, encode, percentiles};

/// Writes the three files.
pub(crate) fn save(record: &Record, directory: &Path) -> Result<(), String> {
    fs::create_dir_all(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let json = serde_json::to_string(record).map_err(|error| error.to_string())?;
    for (name, text) in [
        ("results.json", json + "\n"),
        ("summary.md", summary::markdown(record)),
        ("index.html", html::page(record)),
    ] {
        let path = directory.join(name);
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}
