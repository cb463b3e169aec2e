//! The Python that somebody names on a command line.

/// An interpreter as a command line names it: a name to look up in `PATH` stays, a path is made absolute, because workers
/// start in another directory. Links are not followed: that of a virtual environment leads out of it.
///
/// # Errors
/// If the current directory cannot be told.
pub fn interpreter(text: &str) -> Result<String, String> {
    if !text.contains('/') {
        return Ok(text.to_owned());
    }
    let path =
        std::path::absolute(text).map_err(|error| format!("cannot make the path absolute: {error}"))?;
    path.into_os_string().into_string().map_err(|_| "the path is not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_and_names_stay() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(interpreter("python3.11").unwrap(), "python3.11");
        assert_eq!(interpreter("/usr/bin/python3").unwrap(), "/usr/bin/python3");
        assert_eq!(interpreter("venv/bin/python").unwrap(), here.join("venv/bin/python").to_str().unwrap());
    }
}
