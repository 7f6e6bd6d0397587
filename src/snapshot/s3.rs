//! Snapshots in a bucket of S3.
//!
//! O1: an object has its name only when all of it is there: its parts are uploaded first, and S3 makes the
//! object of them at once.
//!
//! O2: an object that was uploaded is read back, and removed if its checksum is another one.
//!
//! An upload and a download hold a few parts in memory, and no file.

use super::file::FileError;
use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{
    Certificate, ClientOptions, ObjectStore as _, ObjectStoreExt as _, RetryConfig, WriteMultipart,
};
use ring::digest::{Context, Digest, SHA256, SHA256_OUTPUT_LEN};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use time::OffsetDateTime;
use tokio_rustls::rustls::crypto::ring as provider;

/// The beginning of the URLs.
const SCHEME: &str = "s3://";
/// Bytes of a part. S3 takes parts of 5 MiB and more, the last one excepted.
const PART: u64 = 8 << 20;
/// S3 takes 10,000 parts.
const MOST_PARTS: u64 = 9000;
/// Parts that are on their way at once.
const IN_FLIGHT: usize = 2;
/// How long a request may take, with its part.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a request is repeated while the store is away or busy.
const RETRY_TIMEOUT: Duration = Duration::from_mins(1);
/// A file is a multiple of so many bytes, with its checksum behind.
const SECTOR: u64 = 512;

/// A URL or variables that lead to no bucket.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum S3UrlError {
    #[error("is no directory and no bucket of S3: give a path, or s3://BUCKET/PREFIX")]
    Scheme,
    #[error("names no bucket: give s3://BUCKET/PREFIX, with letters, digits, dots and hyphens in BUCKET")]
    Bucket,
    #[error("{0}; give s3://BUCKET/PREFIX")]
    Path(String),
    #[error("names no object: give s3://BUCKET/NAME, such as s3://backups/cluster-1/backup.db")]
    Object,
    #[error("the variable AWS_ENDPOINT_URL is {0}, which is no URL: give one such as http://minio:9000")]
    Endpoint(String),
    #[error("the variable {given} is set and {missing} is not: set both")]
    HalfCredentials { given: &'static str, missing: &'static str },
    #[error("there are no credentials for {0}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")]
    NoCredentials(String),
    #[error("the variable AWS_CA_BUNDLE is {path}: {reason}; name a file with certificates in PEM")]
    Authorities { path: String, reason: String },
    #[error("the variables AWS_… are not taken: {0}")]
    Variables(String),
}

/// A bucket that cannot be used, or an object that is no whole snapshot.
#[derive(Debug, Error)]
pub(crate) enum S3Error {
    #[error("{url}: there is no such bucket at the endpoint: make it, or name another one")]
    NoBucket { url: String },
    #[error("{url}: there is no such object in the bucket: name one that is there")]
    NoObject { url: String },
    #[error("{url}: the credentials of AWS' variables do not permit it ({})", one_line(.source))]
    Denied { url: String, source: object_store::Error },
    #[error("{url}: {}", one_line(.source))]
    Store { url: String, source: object_store::Error },
    #[error("{url}: {size} bytes are no snapshot with its checksum at the end: it is cut off or damaged")]
    Damaged { url: String, size: u64 },
    #[error("{url}: read back after the upload, it has another content, and was removed")]
    Different { url: String },
    #[error(transparent)]
    File(#[from] FileError),
}

/// The text of an error in one line. Of a page of XML it has S3's code and message alone.
fn one_line(error: &object_store::Error) -> String {
    plain(&error.to_string())
}

fn plain(text: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once(&format!("</{name}>"))?.0)
    };
    let begin = text.find("<?xml").or_else(|| text.find("<Error>"));
    let text = match (begin, element("Code")) {
        (Some(_), Some(code)) => format!("{code}: {}", element("Message").unwrap_or_default()),
        (Some(begin), None) => text[..begin].to_owned(),
        (None, _) => text.to_owned(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a place is meant as a URL.
pub(crate) fn is_url(place: &str) -> bool {
    place.contains("://")
}

/// An object, or the common beginning of many.
#[derive(Clone)]
pub(crate) struct S3 {
    bucket: String,
    store: AmazonS3,
    path: Path,
}

impl fmt::Debug for S3 {
    // The store knows secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.bucket, self.path)
    }
}

/// An object in a list.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) at: OffsetDateTime,
    pub(crate) bytes: u64,
}

impl S3 {
    /// The place of a URL, with the region, the endpoint and the credentials of `variables`. Asks nobody.
    ///
    /// # Errors
    /// [`S3UrlError`].
    pub(crate) fn new(url: &str, variables: &BTreeMap<String, String>) -> Result<S3, S3UrlError> {
        let rest = url.strip_prefix(SCHEME).ok_or(S3UrlError::Scheme)?;
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if bucket.is_empty() || !bucket.bytes().all(is_of_name) {
            return Err(S3UrlError::Bucket);
        }
        let path = Path::parse(path).map_err(|error| S3UrlError::Path(error.to_string()))?;
        // The client takes its functions from here. Another call may have set the same ones.
        provider::default_provider().install_default().ok();
        let builder = with_variables(variables)?;
        let store = builder.with_bucket_name(bucket).build();
        let store = store.map_err(|error| S3UrlError::Variables(error.to_string()))?;
        Ok(S3 { bucket: bucket.to_owned(), store, path })
    }

    /// The object of a URL, as [`Self::new`].
    ///
    /// # Errors
    /// [`S3UrlError`].
    pub(crate) fn object(url: &str, variables: &BTreeMap<String, String>) -> Result<S3, S3UrlError> {
        let object = S3::new(url, variables)?;
        if object.path.is_root() { Err(S3UrlError::Object) } else { Ok(object) }
    }

    /// The object with a name below this place.
    pub(crate) fn child(&self, name: &str) -> S3 {
        S3 { path: self.path.clone().join(name), ..self.clone() }
    }

    fn failed(&self, source: object_store::Error) -> S3Error {
        use object_store::Error::{PermissionDenied, Unauthenticated};
        let url = self.to_string();
        match source {
            source if source.to_string().contains("NoSuchBucket") => S3Error::NoBucket { url },
            source @ (PermissionDenied { .. } | Unauthenticated { .. }) => S3Error::Denied { url, source },
            source => S3Error::Store { url, source },
        }
    }

    /// The objects right below this place, ascending by name.
    ///
    /// # Errors
    /// [`S3Error`].
    pub(crate) async fn list(&self) -> Result<Vec<Listed>, S3Error> {
        let listed = self.store.list_with_delimiter(Some(&self.path)).await.map_err(|e| self.failed(e))?;
        let name = |object: object_store::ObjectMeta| {
            let at = OffsetDateTime::from_unix_timestamp(object.last_modified.timestamp()).ok()?;
            Some(Listed { name: object.location.filename()?.to_owned(), at, bytes: object.size })
        };
        let mut objects: Vec<Listed> = listed.objects.into_iter().filter_map(name).collect();
        objects.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    /// Removes the object. It is no error if there is none.
    ///
    /// # Errors
    /// [`S3Error`].
    pub(crate) async fn remove(&self) -> Result<(), S3Error> {
        self.store.delete(&self.path).await.map_err(|error| self.failed(error))
    }

    /// Begins an upload of about `size` bytes.
    ///
    /// # Errors
    /// [`S3Error`].
    pub(crate) async fn upload(&self, size: u64) -> Result<Upload, S3Error> {
        let parts = self.store.put_multipart(&self.path).await.map_err(|error| self.failed(error))?;
        let part = PART.max((size / MOST_PARTS).next_multiple_of(1 << 20)) as usize;
        Ok(Upload {
            object: self.clone(),
            parts: WriteMultipart::new_with_chunk_size(parts, part),
            ending: Ending::new(),
        })
    }

    /// Gives the content of the object to `take`, in parts.
    ///
    /// # Errors
    /// [`S3Error`], and those of `take`.
    pub(crate) async fn read<E: From<S3Error>>(
        &self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed = |error| E::from(self.failed(error));
        let size = match self.store.head(&self.path).await {
            // The response has no text. That of a list names a bucket that is missing.
            Err(object_store::Error::NotFound { .. }) => {
                self.store.list_with_delimiter(Some(&self.path)).await.map_err(failed)?;
                return Err(S3Error::NoObject { url: self.to_string() }.into());
            }
            head => head.map_err(failed)?.size,
        };
        let mut from = 0;
        while from < size {
            let to = size.min(from + PART);
            let bytes: Bytes = self.store.get_range(&self.path, from..to).await.map_err(failed)?;
            take(&bytes)?;
            from = to;
        }
        Ok(())
    }
}

/// The settings that AWS' variables have, each under the name that all tools use.
fn with_variables(variables: &BTreeMap<String, String>) -> Result<AmazonS3Builder, S3UrlError> {
    let set = |name: &str| variables.get(name).filter(|value| !value.is_empty()).map(String::as_str);
    let [id, secret] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    match (set(id), set(secret)) {
        (Some(_), None) => return Err(S3UrlError::HalfCredentials { given: id, missing: secret }),
        (None, Some(_)) => return Err(S3UrlError::HalfCredentials { given: secret, missing: id }),
        _ => {}
    }
    let mut options = ClientOptions::new().with_timeout(REQUEST_TIMEOUT);
    if let Some(endpoint) = set("AWS_ENDPOINT_URL_S3").or_else(|| set("AWS_ENDPOINT_URL")) {
        let wrong = || S3UrlError::Endpoint(endpoint.to_owned());
        let url = url::Url::parse(endpoint).map_err(|_| wrong())?;
        let host = url.host_str().filter(|_| ["http", "https"].contains(&url.scheme())).ok_or_else(wrong)?;
        options = options.with_allow_http(url.scheme() == "http");
        // A machine or a container of AWS has credentials without variables of their own.
        let is_of_aws = host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn");
        let other = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"];
        let mut other = other.into_iter().chain(["AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_SKIP_SIGNATURE"]);
        if set(id).is_none() && !is_of_aws && other.find_map(set).is_none() {
            return Err(S3UrlError::NoCredentials(endpoint.to_owned()));
        }
    }
    if let Some(path) = set("AWS_CA_BUNDLE") {
        let wrong = |reason: String| S3UrlError::Authorities { path: path.to_owned(), reason };
        let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let all = Certificate::from_pem_bundle(&bytes).map_err(|error| wrong(error.to_string()))?;
        options = all.into_iter().fold(options, ClientOptions::with_root_certificate);
    }
    let retry = RetryConfig { retry_timeout: RETRY_TIMEOUT, ..RetryConfig::default() };
    let mut builder = AmazonS3Builder::new().with_client_options(options).with_retry(retry);
    for (name, value) in variables.iter().filter(|(_, value)| !value.is_empty()) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    Ok(builder)
}

/// A snapshot on its way into an object. One that is given up must be told so by [`Upload::abort`], since S3
/// keeps the parts for ever otherwise.
#[derive(Debug)]
pub(crate) struct Upload {
    object: S3,
    parts: WriteMultipart,
    ending: Ending,
}

impl Upload {
    /// Appends bytes.
    ///
    /// # Errors
    /// [`S3Error`].
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), S3Error> {
        self.ending.update(bytes);
        self.parts.write(bytes);
        self.parts.wait_for_capacity(IN_FLIGHT).await.map_err(|error| self.object.failed(error))
    }

    /// Removes what was uploaded.
    pub(crate) async fn abort(self) {
        if let Err(error) = self.parts.abort().await {
            let error = one_line(&error);
            tracing::warn!(error, object = %self.object, "the parts of an upload that failed cannot be removed");
        }
    }

    /// Makes the object, and reads it back. Returns its size.
    ///
    /// # Errors
    /// [`S3Error`]. Then there is no new object.
    pub(crate) async fn finish(self) -> Result<u64, S3Error> {
        let (object, size) = (self.object.clone(), self.ending.size);
        let Some(uploaded) = self.ending.clone().checksum() else {
            self.abort().await;
            return Err(S3Error::Damaged { url: object.to_string(), size });
        };
        self.parts.finish().await.map_err(|error| object.failed(error))?;
        let mut ending = Ending::new();
        let read = object.read::<S3Error>(|bytes| {
            ending.update(bytes);
            Ok(())
        });
        read.await?;
        if ending.size == size && ending.checksum().is_some_and(|sum| sum.as_ref() == uploaded.as_ref()) {
            return Ok(size);
        }
        object.remove().await?;
        Err(S3Error::Different { url: object.to_string() })
    }
}

/// The SHA-256 of a stream whose last bytes are to be that.
#[derive(Clone)]
struct Ending {
    sum: Context,
    /// The last bytes so far.
    last: Vec<u8>,
    size: u64,
}

impl fmt::Debug for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Ending {
    fn new() -> Ending {
        Ending { sum: Context::new(&SHA256), last: Vec::new(), size: 0 }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        if let Some((before, last)) = bytes.split_last_chunk::<SHA256_OUTPUT_LEN>() {
            self.sum.update(&self.last);
            self.sum.update(before);
            self.last.clear();
            self.last.extend_from_slice(last);
            return;
        }
        self.last.extend_from_slice(bytes);
        let before = self.last.len().saturating_sub(SHA256_OUTPUT_LEN);
        self.sum.update(&self.last[..before]);
        self.last.drain(..before);
    }

    /// The checksum, if the stream ends with it.
    fn checksum(self) -> Option<Digest> {
        let sum = self.sum.finish();
        let has_sum = self.size % SECTOR == SHA256_OUTPUT_LEN as u64 && self.size > SECTOR;
        (has_sum && sum.as_ref() == self.last).then_some(sum)
    }
}

/// The snapshot of an object, in a file without a name, and the name for messages.
///
/// # Errors
/// [`S3Error`].
pub(crate) async fn download(object: &S3) -> Result<(std::fs::File, PathBuf), S3Error> {
    use std::io::Write as _;
    let (mut file, path) = super::file::unnamed()?;
    let failed = |source| S3Error::from(FileError::Spool { path: path.clone(), source });
    object.read(|bytes| file.write_all(bytes).map_err(failed)).await?;
    Ok((file, object.to_string().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str, variables: &[(&str, &str)]) -> Result<String, String> {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        S3::new(url, &variables.collect()).map(|s3| s3.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn urls_and_variables_lead_to_a_bucket_or_are_refused() {
        let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        let minio = ("AWS_ENDPOINT_URL", "http://minio:9000");
        assert_eq!(place("s3://b/a/c/", &keys).expect("a place"), "s3://b/a/c");
        assert_eq!(place("s3://b", &[keys[0], keys[1], minio]).expect("a place"), "s3://b/");
        // A machine of AWS has credentials of its own.
        place("s3://b/a", &[]).expect("a place");
        place("s3://b/a", &[("AWS_ENDPOINT_URL", "https://x.vpce.amazonaws.com")]).expect("a place");
        for (url, variables, word) in [
            ("gs://b/a", &keys[..], "s3://BUCKET"),
            ("s3:///a", &keys, "no bucket"),
            ("s3://b c/a", &keys, "no bucket"),
            ("s3://id:secret@b/a", &keys, "no bucket"),
            ("s3://b/a//c", &keys, "empty path segment"),
            ("s3://b/a", &keys[..1], "AWS_SECRET_ACCESS_KEY is not"),
            ("s3://b/a", &keys[1..], "AWS_ACCESS_KEY_ID is not"),
            ("s3://b/a", &[minio], "no credentials for http://minio:9000"),
            ("s3://b/a", &[keys[0], keys[1], ("AWS_ENDPOINT_URL", "minio:9000")], "AWS_ENDPOINT_URL"),
            ("s3://b/a", &[("AWS_CA_BUNDLE", "/no/such")], "AWS_CA_BUNDLE is /no/such: No such file"),
            ("s3://b/a", &[("AWS_CONNECT_TIMEOUT", "soon")], "soon"),
        ] {
            let refusal = place(url, variables).expect_err(url);
            assert!(refusal.contains(word), "{refusal}");
        }
    }

    #[test]
    fn a_stream_is_whole_with_its_checksum_at_the_end() {
        let content = vec![7; 4096];
        let sum = ring_digest(&content);
        let checked = |parts: &[&[u8]]| {
            let mut ending = Ending::new();
            for part in parts {
                ending.update(part);
            }
            ending.checksum().is_some()
        };
        assert!(checked(&[&content, &sum]));
        assert!(checked(&[&content[..5], &content[5..], &sum[..31], &sum[31..]]));
        assert!(!checked(&[&content, &sum[..31]]));
        assert!(!checked(&[&content]));
        assert!(!checked(&[&content[1..], &[8], &sum]));
        assert!(!checked(&[&ring_digest(&[])]));
    }

    #[test]
    fn a_page_of_xml_becomes_one_line() {
        let page = "Error performing PUT http://minio:9000/b/a: 403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>\
                    SignatureDoesNotMatch</Code><Message>The signature\n differs.</Message></Error>";
        assert_eq!(plain(page), "SignatureDoesNotMatch: The signature differs.");
        assert_eq!(plain("404: <?xml?><html>"), "404:");
        assert_eq!(plain("timed  out"), "timed out");
    }

    fn ring_digest(bytes: &[u8]) -> Vec<u8> {
        ring::digest::digest(&SHA256, bytes).as_ref().to_vec()
    }
}
