// Search of pages that are opened from a file system: browsers refuse them workers, so the search
// runs in a hidden frame instead, and nothing is asked of another host.
"use strict";

class IFrameWorker extends EventTarget {
  constructor(url) {
    super();
    this.onmessage = null;
    this.waiting = [];
    this.frame = document.createElement("iframe");
    this.frame.hidden = true;
    window.addEventListener("message", (event) => {
      if (event.source !== this.frame.contentWindow) return;
      const given = new MessageEvent("message", { data: event.data });
      this.dispatchEvent(given);
      if (this.onmessage) this.onmessage(given);
    });
    this.frame.addEventListener("load", () => {
      this.ready = true;
      this.waiting.splice(0).forEach((data) => this.postMessage(data));
    });
    // In the frame, postMessage speaks to the page as a worker's would.
    const speak = "self.postMessage = (data) => parent.postMessage(data, '*');";
    const source = new URL(url, document.baseURI).href.replace(/"/g, "&quot;");
    this.frame.srcdoc = `<script>${speak}<\/script><script src="${source}"><\/script>`;
    document.body.appendChild(this.frame);
  }

  postMessage(data) {
    if (!this.ready) {
      this.waiting.push(data);
      return;
    }
    const inside = this.frame.contentWindow;
    inside.dispatchEvent(new inside.MessageEvent("message", { data, source: window }));
  }

  terminate() {
    this.frame.remove();
  }
}

if (location.protocol === "file:") {
  window.IFrameWorker = IFrameWorker;
  window.Worker = IFrameWorker;
}
