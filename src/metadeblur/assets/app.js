() => {
  for (const [id, name] of [['effort', 'Effort'], ['clips', 'Clips']]) {
    document.querySelector(`#${id}`)?.closest('fieldset')?.setAttribute('aria-label', name);
  }
  addEventListener('beforeunload', (event) => {
    const clips = document.querySelector('#clips')?.innerText || '';
    if (/: (being restored|in line)/.test(clips)) event.preventDefault();
  });
}
