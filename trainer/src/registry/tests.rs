//! One story on every kind of storage: versions that count up, whole or absent, numbers taken by one writer, damage told.

mod s3;

use std::collections::BTreeMap;

use object_store::aws::AmazonS3Builder;
use object_store::memory::InMemory;
use serde_json::json;

use super::*;

fn adapter(weights: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(WEIGHTS), weights).unwrap();
    std::fs::write(folder.path().join(CONFIG), "{\"r\": 4}").unwrap();
    folder
}

fn provenance() -> Provenance {
    Provenance {
        base: Base { name: "demo".to_owned(), hash: "b".repeat(64) },
        algorithm: Some("dpo".to_owned()),
        parent: Some("demo@1".to_owned()),
        snapshot: Some(SnapshotRef {
            hash: "c".repeat(64),
            counts: BTreeMap::from([("pairs".to_owned(), 7)]),
        }),
        config: json!({"beta": 0.1}),
        metrics: json!({"loss": 0.5}).as_object().unwrap().clone(),
    }
}

/// The same story on a disk, in memory and over S3's protocol; the folder lives as long as the test.
async fn registries() -> (tempfile::TempDir, Vec<Registry>) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Registry::open(&format!("file://{}", folder.path().join("reg").display())).unwrap();
    let memory = Registry::over(Arc::new(InMemory::new()), "some/prefix");
    let builder = AmazonS3Builder::new().with_endpoint(s3::serve().await).with_region("us-east-1");
    let builder = builder.with_access_key_id("key").with_secret_access_key("secret");
    let bucket = Registry::over(url::bucket(builder, s3::BUCKET).unwrap(), "some/prefix");
    (folder, vec![disk, memory, bucket])
}

#[tokio::test]
async fn versions_count_up_and_come_back_as_they_were_written() {
    let (_kept, registries) = registries().await;
    for registry in registries {
        assert_eq!(registry.versions("demo").await.unwrap(), [] as [u64; 0]);
        for (number, weights) in [(1, "one"), (2, "two")] {
            let added = registry.add("demo", adapter(weights).path(), provenance()).await.unwrap();
            assert_eq!(added, number);
        }
        registry.put("demo", 2, GATE_REPORT, b"{}".to_vec()).await.unwrap();
        assert_eq!(registry.names().await.unwrap(), ["demo"]);
        assert_eq!(registry.versions("demo").await.unwrap(), [1, 2]);
        let manifest = registry.manifest("demo", 2).await.unwrap();
        assert_eq!((manifest.label().as_str(), &manifest.provenance), ("demo@2", &provenance()));
        assert_eq!(registry.get("demo", 2, GATE_REPORT).await.unwrap().unwrap(), b"{}");
        assert_eq!(registry.get("demo", 1, GATE_REPORT).await.unwrap(), None);

        let cache = tempfile::tempdir().unwrap();
        let folder = registry.fetch("demo", 2, cache.path()).await.unwrap();
        assert_eq!(std::fs::read_to_string(folder.join(WEIGHTS)).unwrap(), "two");
        // A damaged copy is written again.
        std::fs::write(folder.join(CONFIG), "{").unwrap();
        assert_eq!(registry.fetch("demo", 2, cache.path()).await.unwrap(), folder);
        assert_eq!(std::fs::read_to_string(folder.join(CONFIG)).unwrap(), "{\"r\": 4}");
    }
}

#[tokio::test]
async fn a_version_is_there_as_a_whole_or_not_at_all() {
    let (_kept, registries) = registries().await;
    for registry in registries {
        // As an interrupted `add` of other weights leaves it.
        let left = registry.location("demo", 1, WEIGHTS).unwrap();
        assert!(registry.create(&left, "stranded".into()).await.unwrap());
        assert_eq!(registry.names().await.unwrap(), [] as [&str; 0]);
        assert!(registry.manifest("demo", 1).await.is_err());
        assert_eq!(registry.add("demo", adapter("mine").path(), provenance()).await.unwrap(), 2);
        // The same adapter, tried again from the beginning, takes up what it left.
        let left = registry.location("demo", 3, WEIGHTS).unwrap();
        assert!(registry.create(&left, "again".into()).await.unwrap());
        assert_eq!(registry.add("demo", adapter("again").path(), provenance()).await.unwrap(), 3);
        assert_eq!(registry.versions("demo").await.unwrap(), [2, 3]);
    }
}

#[tokio::test]
async fn writers_at_once_take_numbers_of_their_own() {
    let (_kept, registries) = registries().await;
    for registry in registries {
        let add = |i: usize| {
            let registry = registry.clone();
            async move {
                let folder = adapter(&format!("weights {i}"));
                (i, registry.add("demo", folder.path(), provenance()).await.unwrap())
            }
        };
        let added = futures::future::join_all((0..8).map(add)).await;
        let mut numbers: Vec<u64> = added.iter().map(|(_, number)| *number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!((numbers.len(), registry.versions("demo").await.unwrap().len()), (8, 8));
        let cache = tempfile::tempdir().unwrap();
        for (i, number) in added {
            let folder = registry.fetch("demo", number, cache.path()).await.unwrap();
            assert_eq!(std::fs::read_to_string(folder.join(WEIGHTS)).unwrap(), format!("weights {i}"));
        }
    }
}

#[tokio::test]
async fn damage_is_told_by_file_and_hash() {
    let (_kept, registries) = registries().await;
    for registry in registries {
        registry.add("demo", adapter("one").path(), provenance()).await.unwrap();
        let cache = tempfile::tempdir().unwrap();
        let weights = registry.location("demo", 1, WEIGHTS).unwrap();
        for (bytes, told) in [("eno", "has the SHA-256"), ("on", "has 2 bytes, not 3")] {
            registry.store.put(&weights, PutPayload::from(bytes)).await.unwrap();
            let error = registry.fetch("demo", 1, cache.path()).await.unwrap_err().to_string();
            assert!(error.contains("demo/1/adapter_model.safetensors is damaged: it"), "{error}");
            assert!(error.contains(told), "{error}");
        }
        let manifest = registry.location("demo", 1, MANIFEST).unwrap();
        registry.store.put(&manifest, PutPayload::from("{}")).await.unwrap();
        let error = registry.manifest("demo", 1).await.unwrap_err().to_string();
        assert!(error.contains("manifest.json is damaged: it is no manifest: missing field"), "{error}");
    }
}

#[tokio::test]
async fn refusals_name_what_would_be_right() {
    let (_kept, registries) = registries().await;
    let registry = &registries[0];
    registry.add("demo", adapter("one").path(), provenance()).await.unwrap();
    let text = |result: Result<(), RegistryError>| result.unwrap_err().to_string();
    let missing = text(registry.manifest("demo", 4).await.map(drop));
    assert!(
        missing.contains("demo@4 is not in the registry") && missing.contains("versions are 1"),
        "{missing}"
    );
    for name in ["", "a/b", "../x", ".hidden", "ä"] {
        assert!(text(registry.versions(name).await.map(drop)).contains("cannot be used"), "{name}");
    }
    let kept = text(registry.put("demo", 1, MANIFEST, Vec::new()).await);
    assert!(kept.contains("never change"), "{kept}");
    let folder = tempfile::tempdir().unwrap();
    let none = text(registry.add("demo", folder.path(), provenance()).await.map(drop));
    assert!(none.contains(WEIGHTS), "{none}");
    for (url, told) in
        [("gs://b/p", "file://FOLDER or s3://"), ("s3://", "no bucket"), ("file://", "no folder")]
    {
        let error = Registry::open(url).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}
