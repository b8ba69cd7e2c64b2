"""Trains the same network in Keras, by gradient descent: `python -m examples.digits.train_keras --out examples/digits/out/v2`.

Writes OUT/model.h5, as TensorFlow does. Runs on TensorFlow where it is installed, else on torch; the file is the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path

from examples.digits import data


def fit(out: str | Path, epochs: int = 8, seed: int = 0) -> list[float]:
    """Trains 784-128-10 with softmax, cross-entropy and weight decay, and writes the files; returns the loss of each epoch.

    `train:` of a Model document may name it.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # so small a network only waits for more
    os.environ.setdefault("KERAS_BACKEND", "tensorflow" if importlib.util.find_spec("tensorflow") else "torch")
    import keras  # after the backend is chosen

    keras.utils.set_random_seed(seed)
    training, test = data.load()
    decay = keras.regularizers.L2(1e-4)
    model = keras.Sequential(
        [
            keras.Input((784,), name="image"),
            keras.layers.Dense(128, activation="relu", kernel_regularizer=decay),
            keras.layers.Dense(10, activation="softmax", kernel_regularizer=decay, name="probabilities"),
        ]
    )
    model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(training.image, training.label, epochs=epochs, batch_size=64, verbose=2).history
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.h5")
    data.write(training, folder.parent, "train")
    data.write(test, folder.parent, "test")
    print(f"{folder / 'model.h5'}: {model.evaluate(test.image, test.label, verbose=0)[1]:.1%} of the test rows right")
    return [float(loss) for loss in history["loss"]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the digits network in Keras.")
    parser.add_argument("--out", type=Path, required=True, help="folder for model.h5")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    fit(options.out, options.epochs, options.seed)


if __name__ == "__main__":
    main()
