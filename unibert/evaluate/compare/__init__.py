"""`unibert report`: results of any number of models on one page, with what is significant and what is not."""
