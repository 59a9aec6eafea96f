//! From the address of a registry to its object store. Leaves what is stored to [`super::Registry`].

use std::path::Path as FilePath;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore};

use super::RegistryError;

type Opened = (Arc<dyn ObjectStore>, Path);

pub(super) fn open(url: &str) -> Result<Opened, RegistryError> {
    let refuse = |reason: String| RegistryError::Url { url: url.to_owned(), reason };
    match url.split_once("://") {
        None | Some(("file", _)) => {
            let folder = url.strip_prefix("file://").unwrap_or(url);
            open_folder(FilePath::new(folder)).map_err(|error| refuse(format!("cannot be opened: {error}")))
        }
        Some(("s3", rest)) => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            if bucket.is_empty() {
                return Err(refuse("names no bucket; write s3://BUCKET/PREFIX".to_owned()));
            }
            // Keys, region and endpoint come from AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and the others of the AWS tools.
            let store = self::bucket(AmazonS3Builder::from_env(), bucket)
                .map_err(|error| refuse(format!("cannot be opened: {error}")))?;
            Ok((store, Path::from(prefix)))
        }
        Some((scheme, _)) => {
            Err(refuse(format!("is of the kind `{scheme}`, but must be file://FOLDER or s3://BUCKET/PREFIX")))
        }
    }
}

fn open_folder(folder: &FilePath) -> Result<Opened, object_store::Error> {
    if folder.as_os_str().is_empty() {
        let source = "it names no folder; write file://FOLDER".into();
        return Err(object_store::Error::Generic { store: "file", source });
    }
    let io = |source: std::io::Error| object_store::Error::Generic { store: "file", source: source.into() };
    std::fs::create_dir_all(folder).map_err(io)?;
    // What is acknowledged survives a loss of power.
    let store = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true);
    Ok((Arc::new(store), Path::default()))
}

/// A bucket behind what `builder` knows of keys, region and endpoint.
pub(super) fn bucket(
    builder: AmazonS3Builder,
    bucket: &str,
) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    // object_store's client is built without a provider of its own. One that is installed already serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Whoever names an endpoint without encryption means it.
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
    let options =
        ClientOptions::new().with_allow_http(endpoint.is_some_and(|url| url.starts_with("http://")));
    Ok(Arc::new(builder.with_bucket_name(bucket).with_client_options(options).build()?))
}
