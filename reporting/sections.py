"""The pictures on report.py's page: under which heading, how they are read, what makes them."""

from typing import NamedTuple


class Section(NamedTuple):
    """Pictures under one heading, how to read them and the command that makes them.

    files: names or patterns; what several of them find is shown once, at the first.
    """

    heading: str
    files: list
    explanation: str
    command: str


PICTURES = (  # of visualization.py
    Section(
        heading="Images that maximise a class",
        files=["max_class_without_G.png", "max_class_with_G.png", "max_class_*.png"],
        explanation="Each image was climbed until its class's logit, given below it, was high; "
        '"moved" is its mean over shifted, turned, scaled and noisy views. What you recognise, '
        "the network relies on.",
        command="python visualization.py --max_classification_output",
    ),
    Section(
        heading="Features of the layers",
        files=[
            f"max_features_{which}_G_layer{layer}.png"
            for layer in range(1, 9)
            for which in ("without", "with")
        ],
        explanation="Each image that no camera took excites one feature, whose number and "
        "activation stand below it. Where test images stand beside it, they excite the feature "
        "most; frames show the pixels that the responsible unit sees. Give the feature a name.",
        command="python visualization.py --max_features",
    ),
    Section(
        heading="Where it looks",
        files=["attribution_without_G.png", "attribution_with_G.png"],
        explanation="Grad-CAM marks the regions whose features point to the predicted class; the "
        "head takes only the maximum of each feature map, so a bright region need not have "
        "contributed to the logit. Bright pixels of integrated gradients count most, for or "
        "against the class, compared with the blurred image.",
        command="python visualization.py --attribution",
    ),
    Section(
        heading="One step toward the wrong class",
        files=["jittered_images.png", "jittered_images_with_G.png"],
        explanation="Below each image: what the network said before the step, and what it says "
        "now.",
        command="python visualization.py --perturb_images",
    ),
    Section(
        heading="How strong must a perturbation be?",
        files=[
            "robustness.png",
            "attack_convergence.png",
            "smallest_epsilon_without_G.png",
            "smallest_epsilon_with_G.png",
        ],
        explanation="Each attack has its chart. The sooner a line falls in the upper row, or rises "
        "in the lower one, the easier the network is fooled. What an attack leaves right is an "
        "upper bound on the robust accuracy, a good one where its curve over the gradients is "
        "flat.",
        command="python visualization.py --perturb_images",
    ),
    Section(
        heading="Layer by layer",
        files=["layers.png"],
        explanation="The accuracy of a linear classifier on the features of each layer, the share "
        "of features that respond to one class, the share that fire on few images, and the "
        "similarity of two networks.",
        command="python visualization.py --compare_layers",
    ),
)
SAMPLES = (  # of evaluate_gan.py
    Section(
        heading="The generator's samples",
        files=["samples.png"],
        explanation="One class in each column.",
        command="python evaluate_gan.py",
    ),
    Section(
        heading="Does it copy?",
        files=["nearest.png"],
        explanation="Samples above their nearest training images, mirrored and shifted to fit.",
        command="python evaluate_gan.py",
    ),
)
