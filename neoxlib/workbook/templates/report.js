const button = document.getElementById("toggle");
if (button) {
  button.hidden = false;
  button.onclick = () => {
    const show = button.textContent === "Show code";
    document.querySelectorAll("details.code").forEach(part => { part.open = show; });
    button.textContent = show ? "Hide code" : "Show code";
  };
}
