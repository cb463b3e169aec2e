"""Handwritten digits: train once on the endpoint, then predict in batches of 1 to 1024 images.

The images are the ones that come with scikit-learn. The model stays in a file on the endpoint; each worker loads it
with its first prediction and keeps it.
"""

import tempfile
import time

from connect import ENDPOINT, client, result, results


def train(folder):
    """Trains on the first 1,000 images and leaves the model in a file."""
    import os

    import joblib
    from sklearn import datasets, svm

    digits = datasets.load_digits()
    model = svm.SVC(gamma=0.001).fit(digits.data[:1000], digits.target[:1000])
    path = os.path.join(folder, "digits.joblib")
    joblib.dump(model, path)
    return path


def predict(path, images):
    import sys

    # Modules outlive a task, so this is loaded once in each worker.
    cache = sys.modules.setdefault("digits_model_cache", type(sys)("digits_model_cache"))
    if path not in vars(cache):
        import joblib

        setattr(cache, path, joblib.load(path))
    return getattr(cache, path).predict(images).tolist()


def test_images():
    from sklearn import datasets

    digits = datasets.load_digits()
    images, labels = digits.data[1000:], digits.target[1000:]
    # 797 images are left; the larger batches go round.
    return [list(map(float, image)) for image in images], [int(label) for label in labels]


gcc = client()
images, labels = test_images()
with tempfile.TemporaryDirectory() as folder:
    path = result(gcc, gcc.run(folder, endpoint_id=ENDPOINT, function_id=gcc.register_function(train)))
    predict_id = gcc.register_function(predict)
    print(f"{'batch':>6} {'right':>7} {'images/s':>9}")
    for exponent in range(11):
        size = 1 << exponent
        chosen = [index % len(images) for index in range(size)]
        parts = [chosen[start:start + 256] for start in range(0, size, 256)]
        batch = gcc.create_batch()
        for part in parts:
            batch.add(predict_id, args=(path, [images[index] for index in part]))
        began = time.perf_counter()
        task_ids = gcc.batch_run(ENDPOINT, batch)["tasks"][predict_id]
        predicted = [digit for part in results(gcc, task_ids) for digit in part]
        took = time.perf_counter() - began
        right = sum(digit == labels[index] for digit, index in zip(predicted, chosen)) / size
        print(f"{size:6} {right:7.1%} {size / took:9.0f}")
        assert size < 64 or right > 0.9, "a support vector machine does better than that"
