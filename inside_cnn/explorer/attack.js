"use strict";

async function attack({ network: name, method, target, epsilon }, result, pause) {
  const { image, label, title } = chosenImage();
  const { net } = networks[name];
  await pause();
  const before = networks.map((network) => predict(network.net, [image])[0]);
  const targeted = target !== "";
  const goal = targeted ? +target : label ?? largest(before[name].probabilities);
  let levels = image;
  const show = () => {
    const perturbed = Uint8ClampedArray.from(levels);
    const after = networks.map((network) => predict(network.net, [perturbed])[0]);
    const changes = Array.from(perturbed, (value, i) => value - image[i]);
    const largestChange = Math.max(1, ...changes.map(Math.abs));
    const enlarged = Uint8ClampedArray.from(changes, (c) => 127.5 + (127 / largestChange) * c);
    result.replaceChildren(
      row("large", figure(image, title), figure(enlarged, "change, at full contrast"),
        figure(perturbed, `attacked, epsilon ${epsilon}/255`)),
      predictions(before, after, targeted ? goal : label));
  };
  if (method === "noise") levels = randomNoise(image, epsilon, true);
  if (method === "step") {
    const gradient = lossGradient(net, image, goal, false);
    const size = targeted ? -epsilon : epsilon;
    levels = signedStep(Float32Array.from(image), image, gradient, size, epsilon);
  }
  if (method === "pgd") {
    let step = 0;
    for (levels of projectedGradient(net, image, goal, { epsilon, targeted })) {
      await pause(`step ${step++} of 20`);
    }
  }
  show();
}
