const find = (what) => element.querySelector(what);
const say = (words) => { find('.said').textContent = words; };
const here = (what) => new URL(`visit/${props.value}/${what}`, document.baseURI);
let sending = false;

function post(file, number, before, all) {
  return new Promise((done, fail) => {
    const request = new XMLHttpRequest();
    const address = here('upload');
    address.searchParams.set('number', number);
    address.searchParams.set('name', file.name);
    request.open('POST', address);
    request.upload.onprogress = (event) => { find('progress').value = (before + event.loaded) / (all || 1); };
    request.onload = () => {
      if (request.status === 204) { done(); return; }
      let words = request.status === 404 ? 'This visit has ended; load the page again.' : 'The upload failed.';
      if (request.status === 413) words = 'The proxy before this page takes no file of this size.';
      try { words = JSON.parse(request.responseText).error || words; } catch (error) { /* not ours */ }
      fail(new Error(words));
    };
    request.onerror = () => fail(new Error('The upload was interrupted; try again.'));
    request.send(file);
  });
}

async function bring(files) {
  if (sending || !files.length) return;
  const all = files.reduce((sum, file) => sum + file.size, 0);
  if (all > props.limit * 1e6) {
    const size = Math.ceil(all / 1e6);
    say(`This is ${size} MB; at most ${props.limit} MB are taken. Cut the clip, or use the command line.`);
    return;
  }
  sending = true;
  find('progress').hidden = false;
  try {
    let before = 0;
    for (const [number, file] of files.entries()) {
      say(files.length > 1 ? `Uploading file ${number + 1} of ${files.length}` : `Uploading ${file.name}`);
      await post(file, number, before, all);
      before += file.size;
    }
    say('Uploaded.');
    trigger('brought');
  } catch (error) {
    say(error.message);
  }
  find('progress').hidden = true;
  sending = false;
}

async function inside(entry) {
  if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) return found;
    for (const one of some) if (one.isFile) found.push(...await inside(one));
  }
}

const hidden = (file) => file.name.startsWith('.') || file.name === 'Thumbs.db';  // what systems put into folders
const shown = (files) => (files.length > 1 ? files.filter((file) => !hidden(file)) : files);
element.addEventListener('change', (event) => {
  const files = shown([...event.target.files]);
  event.target.value = '';
  bring(files);
});
element.addEventListener('dragover', (event) => { event.preventDefault(); find('.md-drop').classList.add('over'); });
element.addEventListener('dragleave', () => find('.md-drop').classList.remove('over'));
element.addEventListener('drop', async (event) => {
  event.preventDefault();
  find('.md-drop').classList.remove('over');
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
  const plain = [...event.dataTransfer.files];
  const found = entries.every(Boolean) ? (await Promise.all(entries.map(inside))).flat() : plain;
  bring(shown(found));
});
setInterval(() => { if (props.value) fetch(here('here'), { method: 'POST' }); }, 60000);
addEventListener('pagehide', (event) => {
  if (props.value && !event.persisted) navigator.sendBeacon(here('leave'));
});
