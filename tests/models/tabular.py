"""Exports scikit-learn models, each trained on a data set that scikit-learn ships: the operators of ai.onnx.ml.

    tabular.py FOLDER

Every model takes f32 rows (or text, where the name says so) and answers without ZipMap, thus with tensors alone.
"""

import pathlib
import sys
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn import datasets, ensemble, linear_model, naive_bayes, neighbors, neural_network, pipeline, preprocessing, svm, tree
from sklearn.base import is_classifier
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer

OPSET = {"": 17, "ai.onnx.ml": 3}
SEED = 3


def chain(*steps):
    return pipeline.make_pipeline(*steps)


def classifiers() -> dict:
    small = {"max_depth": 6, "random_state": SEED}
    return {
        "forest": ensemble.RandomForestClassifier(20, **small),
        "extra_trees": ensemble.ExtraTreesClassifier(20, **small),
        "boosting": ensemble.GradientBoostingClassifier(n_estimators=20, max_depth=3, random_state=SEED),
        "histogram_boosting": ensemble.HistGradientBoostingClassifier(max_iter=20, random_state=SEED),
        "tree": tree.DecisionTreeClassifier(**small),
        "logistic": chain(preprocessing.StandardScaler(), linear_model.LogisticRegression(max_iter=500)),
        "normalized_logistic": chain(preprocessing.Normalizer(), linear_model.LogisticRegression(max_iter=500)),
        "svc": chain(preprocessing.MinMaxScaler(), svm.SVC(probability=True, random_state=SEED)),
        "perceptron": chain(preprocessing.RobustScaler(), neural_network.MLPClassifier((32,), max_iter=100, random_state=SEED)),
        "bayes": naive_bayes.GaussianNB(),
        "neighbours": neighbors.KNeighborsClassifier(5),
        "components": chain(PCA(4, random_state=SEED), linear_model.LogisticRegression(max_iter=500)),
        "binarized": chain(preprocessing.Binarizer(threshold=2.0), naive_bayes.BernoulliNB()),
    }


def regressors() -> dict:
    small = {"max_depth": 6, "random_state": SEED}
    return {
        "forest_regressor": ensemble.RandomForestRegressor(20, **small),
        "boosting_regressor": ensemble.GradientBoostingRegressor(n_estimators=20, max_depth=3, random_state=SEED),
        "histogram_boosting_regressor": ensemble.HistGradientBoostingRegressor(max_iter=20, random_state=SEED),
        "tree_regressor": tree.DecisionTreeRegressor(**small),
        "ridge": linear_model.Ridge(),
        "scaled_lasso": chain(preprocessing.MaxAbsScaler(), linear_model.Lasso(0.01)),
        "svr": chain(preprocessing.StandardScaler(), svm.SVR()),
        "polynomial": chain(preprocessing.PolynomialFeatures(2), linear_model.Ridge()),
        "imputed": chain(SimpleImputer(strategy="median"), linear_model.Ridge()),
    }


def mixed() -> tuple:
    """Numbers and names in one model: imputer, scaler and one-hot encoder, then boosting."""
    random = np.random.default_rng(SEED)
    numbers = random.normal(size=(300, 3)).astype(np.float32)
    names = random.choice(["red", "green", "blue"], size=(300, 1)).astype(object)
    rows = np.concatenate([numbers.astype(object), names], axis=1)
    target = (numbers[:, 0] + (names[:, 0] == "red") > 0.3).astype(np.int64)
    columns = ColumnTransformer(
        [
            ("numbers", chain(SimpleImputer(), preprocessing.StandardScaler()), [0, 1, 2]),
            ("names", preprocessing.OneHotEncoder(handle_unknown="ignore"), [3]),
        ]
    )
    return chain(columns, ensemble.GradientBoostingClassifier(n_estimators=10, random_state=SEED)).fit(rows, target)


def label_encoder() -> onnx.ModelProto:
    """Made by hand: text to numbers, with a default for what it does not know."""
    node = helper.make_node(
        "LabelEncoder", ["text"], ["number"], domain="ai.onnx.ml", keys_strings=["red", "green", "blue"],
        values_int64s=[0, 1, 2], default_int64=-1,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "graph", [helper.make_tensor_value_info("text", TensorProto.STRING, ["N"])],
        [helper.make_tensor_value_info("number", TensorProto.INT64, ["N"])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, version) for domain, version in OPSET.items()])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def save(folder: pathlib.Path, name: str, model, types: list) -> None:
    options = {id(model): {"zipmap": False}} if is_classifier(model) else None
    onnx.save(to_onnx(model, initial_types=types, target_opset=OPSET, options=options), folder / f"sk_{name}.onnx")


def export(folder: pathlib.Path) -> None:
    warnings.simplefilter("ignore")
    sources = {"binary": datasets.load_breast_cancer, "iris": datasets.load_iris, "digits": datasets.load_digits}
    for source, load in sources.items():
        rows, target = load(return_X_y=True)
        for name, model in classifiers().items():
            if source != "digits" or name in ("forest", "histogram_boosting", "logistic", "svc"):
                model.fit(rows.astype(np.float32), target)
                save(folder, f"{name}_{source}", model, [("rows", FloatTensorType([None, rows.shape[1]]))])
    rows, target = datasets.load_diabetes(return_X_y=True)
    for name, model in regressors().items():
        model.fit(rows.astype(np.float32), target)
        save(folder, name, model, [("rows", FloatTensorType([None, rows.shape[1]]))])
    columns = [(name, FloatTensorType([None, 1])) for name in ("a", "b", "c")]
    save(folder, "mixed_text", mixed(), [*columns, ("name", StringTensorType([None, 1]))])
    codes = np.random.default_rng(SEED).integers(0, 4, size=(200, 3))
    encoder = preprocessing.OneHotEncoder(sparse_output=False).fit(codes)
    save(folder, "one_hot", encoder, [("codes", Int64TensorType([None, 3]))])
    onnx.save(label_encoder(), folder / "sk_label_encoder_text.onnx")


if __name__ == "__main__":
    export(pathlib.Path(sys.argv[1]))
