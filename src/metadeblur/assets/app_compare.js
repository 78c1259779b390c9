// Two videos laid over each other, in step, with a line between them that is moved by mouse, finger or keys.
const find = (what) => element.querySelector(what);
let stop = () => {};

function start() {
  stop();
  const clip = props.value;
  if (!clip) return;
  const view = find('.view'), stage = find('.stage'), sheet = find('.sheet');
  const before = find('.before'), after = find('.after'), divider = find('.divider'), frame = find('.frame');
  const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
  let share = 50, alive = true, begun = false, playing = false, told = 0;

  function say(input, words) { input.ariaValueText = input.nextElementSibling.textContent = words; }
  function divide(to) {  // the line is where it is on the window, however the magnified pictures lie under it
    share = Math.min(100, Math.max(0, to));
    divider.value = share;
    say(divider, `${Math.round(share)} %`);
    view.style.setProperty('--at', `${share}%`);
    after.style.clipPath = `inset(0 0 0 ${stage.scrollLeft + share / 100 * stage.clientWidth}px)`;
  }
  function magnify(to) {
    const middle = (at, seen, all) => (at + seen / 2) / all;
    const [x, y] = [middle(stage.scrollLeft, stage.clientWidth, sheet.clientWidth), middle(stage.scrollTop, stage.clientHeight, sheet.clientHeight)];
    stage.style.height = to ? `${stage.clientHeight}px` : '';
    sheet.style.width = to ? `${to * before.videoWidth}px` : '';
    stage.scrollTo(x * sheet.clientWidth - stage.clientWidth / 2, y * sheet.clientHeight - stage.clientHeight / 2);
    find('.md-compare').classList.toggle('near', to > 0);
    for (const button of element.querySelectorAll('[data-zoom]')) button.ariaPressed = String(Number(button.dataset.zoom) === to);
    divide(share);
  }
  function go(number) { before.currentTime = after.currentTime = (number - 0.5) / clip.fps; }
  function show() {
    const number = Math.min(clip.frames, Math.floor(before.currentTime * clip.fps) + 1);
    if (number !== told) {  // screens are drawn more often than there are frames
      frame.value = told = number;
      say(frame, `${number} of ${clip.frames}`);
    }
    if (Math.abs(after.currentTime - before.currentTime) > 1.5 / clip.fps && !after.seeking) after.currentTime = before.currentTime;
  }
  function play(wanted) {
    playing = wanted;
    for (const video of [before, after]) if (wanted) video.play().catch(() => {}); else video.pause();
    find('.play').textContent = wanted ? 'Pause' : 'Play';
  }
  function drag(event) {
    if (event.type === 'pointermove' && !event.buttons) return;
    const box = stage.getBoundingClientRect();
    divide(100 * (event.clientX - box.left) / box.width);
  }
  function follow() {
    if (!before.paused) show();
    if (alive && element.isConnected) requestAnimationFrame(follow);
  }

  stop = () => { alive = false; };
  before.onloadedmetadata = () => { go(clip.worst + 1); divide(50); };
  before.onended = () => { if (playing) { go(1); play(true); } };  // it may be told after one has stopped it
  before.onseeked = show;
  // The most blurred frame is seen for a moment, then everything moves, unless the visitor's system asks for less of it.
  before.oncanplay = after.oncanplay = () => {
    if (begun || still || before.readyState < 3 || after.readyState < 3) return;
    begun = true;
    setTimeout(() => { if (alive && before.paused && !frame.dataset.used) play(true); }, 1000);
  };
  divider.oninput = () => divide(Number(divider.value));
  frame.oninput = () => { frame.dataset.used = '1'; play(false); go(Number(frame.value)); };
  frame.onkeydown = (event) => { if (event.key !== 'Tab') { frame.dataset.used = '1'; play(false); } };
  find('.play').onclick = () => { frame.dataset.used = '1'; play(!playing); };
  find('.worst').onclick = () => { frame.dataset.used = '1'; play(false); go(clip.worst + 1); };
  for (const button of element.querySelectorAll('[data-zoom]')) button.onclick = () => magnify(Number(button.dataset.zoom));
  stage.onscroll = () => divide(share);
  stage.onpointerdown = stage.onpointermove = drag;
  stage.ondblclick = () => magnify(sheet.style.width ? 0 : 2);
  stage.onkeydown = (event) => {
    const step = { ArrowLeft: -2, ArrowRight: 2 }[event.key];
    if (step) { divide(share + step); event.preventDefault(); }
  };
  if (before.readyState) before.onloadedmetadata();
  divide(50);
  follow();
}
watch('value', start);
start();
