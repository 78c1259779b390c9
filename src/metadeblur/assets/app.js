() => {
  // Names for a screen reader that Gradio leaves out.
  const name = (element, words) => { if (element && element.ariaLabel !== words) element.ariaLabel = words; };
  const label = () => {
    for (const [id, words] of [['effort', 'Effort'], ['clips', 'Clips']]) name(document.querySelector(`#${id}`)?.closest('fieldset'), words);
    name(document.querySelector('#video video'), 'The restored clip');
    EXAMPLES.forEach((words, number) => name(document.querySelectorAll('#examples button')[number], words));
  };
  new MutationObserver(label).observe(document.body, { childList: true, subtree: true });
  label();
  addEventListener('beforeunload', (event) => {
    const clips = document.querySelector('#clips')?.innerText || '';
    if (/: (being restored|in line)/.test(clips)) event.preventDefault();
  });
}
