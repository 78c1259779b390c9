const find = (what) => element.querySelector(what);
let timer = 0;
function divide(share) {
  const at = Math.round(Math.min(100, Math.max(0, share)));
  find('.stage').style.setProperty('--at', `${at}%`);
  find('.divider').value = at;
  find('.divider').ariaValueText = find('.divider').nextElementSibling.textContent = `${at} %`;
}
function look(number) {
  const section = find('.md-compare');
  find('.frame').nextElementSibling.textContent = `${number} of ${section.dataset.frames}`;
  clearTimeout(timer);
  timer = setTimeout(() => {
    for (const [side, words] of [['before', 'as it was'], ['after', 'restored']]) {
      find(`.${side}`).src = `${section.dataset.base}/${side}/${number - 1}`;
      find(`.${side}`).alt = `Frame ${number} ${words}`;
    }
  }, 120);
}
element.addEventListener('input', (event) => {
  if (event.target.matches('.divider')) divide(event.target.value);
  if (event.target.matches('.frame')) look(event.target.value);
});
function drag(event) {
  const stage = event.target.closest && event.target.closest('.stage');
  if (!stage || (event.type === 'pointermove' && !event.buttons)) return;
  const box = stage.getBoundingClientRect();
  divide(100 * (event.clientX - box.left) / box.width);
}
element.addEventListener('pointerdown', drag);
element.addEventListener('pointermove', drag);
