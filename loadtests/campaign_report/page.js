"use strict";
(() => {
  const digits = (value) => (Number.isFinite(value) ? Number(value.toPrecision(3)).toLocaleString("en") : "–");

  const price = document.getElementById("price");
  const utilisation = document.getElementById("utilisation");
  const showCosts = () => {
    for (const cell of document.querySelectorAll("[data-rate]")) {
      const perHour = Number(cell.dataset.rate) * 3600 * Number(utilisation.value);
      cell.textContent = price.value === "" ? "–" : digits((Number(price.value) / perHour) * 1e6);
    }
  };
  if (price) {
    price.addEventListener("input", showCosts);
    utilisation.addEventListener("input", showCosts);
    showCosts();
  }

  const weights = [...document.querySelectorAll("input[data-first]")];
  const showTotal = () => {
    let whole = 0;
    let first = 0;
    for (const input of weights) {
      const weight = Number(input.value);
      whole += weight;
      first += weight * Number(input.dataset.first);
      input.nextElementSibling.textContent = input.value;
    }
    const share = whole ? first / whole : 50;
    document.getElementById("first-meter").value = share;
    document.getElementById("second-meter").value = 100 - share;
    document.getElementById("first-score").textContent = digits(share);
    document.getElementById("second-score").textContent = digits(100 - share);
  };
  for (const input of weights) {
    input.addEventListener("input", showTotal);
  }
  if (weights.length) {
    showTotal();
  }
})();
